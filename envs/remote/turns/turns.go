// Package turns makes the observations and steps of an episode out of what an
// environment server says. It keeps the rule that a malformed action is the
// environment's business: a server that refuses one has answered it.
package turns

import (
	"errors"
	"fmt"
	"math"

	"github.com/empo2/empo2/envs"
)

// Blank stands where a running episode has nothing to show, as the state of an
// observation is empty only after the last step.
const Blank = "(nothing to see)"

// patience is how many answers in a row may be an error of unknown origin
// before the environment, not the action, is held to be at fault.
const patience = 5

// ErrBroken is wrapped by the error of an episode whose environment answers
// every action with an error.
var ErrBroken = errors.New("the environment answers every action with an error")

// Turns is the course of one episode. The zero value is its beginning.
type Turns struct {
	state  string
	total  float64 // rewards so far
	score  float64
	errors int // of unknown origin, in a row
}

// An Answer is what a server says about one action.
type Answer struct {
	Feedback string // what the action did, if the server tells it apart
	State    string // what there is to see
	// Reward is that of the action or, if Cumulative, of the episode so far.
	Reward     float64
	Cumulative bool
	// Score is the server's own; nil: the rewards so far.
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

// Next is the step that an answer makes. After the last step there is no state
// to act in; its text is then feedback.
func (t *Turns) Next(a Answer) (envs.Step, error) {
	if a.Cumulative {
		a.Reward -= t.total
	}
	if !finite(a.Reward) || a.Score != nil && !finite(*a.Score) {
		return envs.Step{}, fmt.Errorf("the reward %v or the score is no finite number", a.Reward)
	}
	t.errors = 0
	t.total += a.Reward
	t.score = t.total
	if a.Score != nil {
		t.score = *a.Score
	}
	step := envs.Step{Reward: a.Reward, Score: t.score, Success: a.Success, Terminated: a.Terminated, Truncated: a.Truncated}
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

// Refused is the step of an action that the server would not take: nothing has
// happened but its complaint.
func (t *Turns) Refused(complaint string) envs.Step {
	if complaint == "" {
		complaint = "The action was refused."
	}
	return envs.Step{Observation: envs.Observation{Feedback: complaint, State: t.state}, Score: t.score}
}

// Doubtful is like Refused for an error that may be due to the action or to
// the environment itself: the fifth in a row is the environment's.
func (t *Turns) Doubtful(complaint string) (envs.Step, error) {
	if t.errors++; t.errors >= patience {
		return envs.Step{}, fmt.Errorf("%w: %s", ErrBroken, complaint)
	}
	return t.Refused(complaint), nil
}
