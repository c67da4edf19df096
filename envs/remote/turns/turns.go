// Package turns makes the observations and steps of an episode from the answers of
// an environment server. An action that the server refuses is not an error. It is
// answered with feedback.
package turns

import (
	"errors"
	"fmt"
	"math"

	"github.com/empo2/empo2/envs"
)

// Blank is the state of a running episode that has no text. (Only the state after
// the last step is empty.)
const Blank = "(nothing to see)"

// maxErrors is the number of consecutive errors of unknown origin that make the
// environment count as broken.
const maxErrors = 5

// ErrBroken is wrapped by the error of an episode whose environment answers
// every action with an error.
var ErrBroken = errors.New("the environment answers every action with an error")

// Turns is the state of one episode. The zero value is ready to use.
type Turns struct {
	state  string
	total  float64 // rewards so far
	score  float64
	errors int // consecutive, of unknown origin
}

// An Answer is the server's answer to one action.
type Answer struct {
	Feedback string // the result of the action, if it is not part of State
	State    string // the situation
	// Reward is the reward of the action. If Cumulative is true, it is the sum
	// of the episode so far.
	Reward     float64
	Cumulative bool
	// Score is the server's score. Nil: the sum of the rewards so far.
	Score      *float64
	Success    bool
	Terminated bool
	Truncated  bool
}

// First is the observation before the first action.
func (t *Turns) First(text string) envs.Observation {
	t.state = text
	if text == "" {
		t.state = Blank
	}
	return envs.Observation{State: t.state}
}

// Next returns the step of an answer. After the last step the text of the state
// becomes feedback, because there is no further action.
func (t *Turns) Next(a Answer) (envs.Step, error) {
	if a.Cumulative {
		a.Reward -= t.total
	}
	if !finite(a.Reward) || a.Score != nil && !finite(*a.Score) {
		return envs.Step{}, fmt.Errorf("the reward %v or the score is not a finite number", a.Reward)
	}
	t.errors = 0
	t.total += a.Reward
	t.score = t.total
	if a.Score != nil {
		t.score = *a.Score
	}
	step := envs.Step{
		Reward: a.Reward, Score: t.score, Success: a.Success, Terminated: a.Terminated, Truncated: a.Truncated,
	}
	if step.Done() {
		step.Observation.Feedback = join(a.Feedback, a.State)
		return step, nil
	}
	if t.state = a.State; t.state == "" {
		t.state = Blank
	}
	step.Observation = envs.Observation{Feedback: a.Feedback, State: t.state}
	return step, nil
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

func join(feedback, state string) string {
	if feedback == "" || state == "" {
		return feedback + state
	}
	return feedback + "\n" + state
}

// Refused returns the step of an action that the server has refused. The state is
// unchanged, and the reason is the feedback.
func (t *Turns) Refused(reason string) envs.Step {
	if reason == "" {
		reason = "The action was refused."
	}
	return envs.Step{Observation: envs.Observation{Feedback: reason, State: t.state}, Score: t.score, Invalid: true}
}

// MaybeRefused is like Refused, for an error that the action or a broken environment may
// have caused. The fifth consecutive error is an [ErrBroken].
func (t *Turns) MaybeRefused(reason string) (envs.Step, error) {
	if t.errors++; t.errors >= maxErrors {
		return envs.Step{}, fmt.Errorf("%w: %s", ErrBroken, reason)
	}
	return t.Refused(reason), nil
}
