package sampler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
)

// Driver runs episodes: it stands between one environment family and one
// backend. It has no state of its own and is safe for concurrent use.
type Driver struct {
	Backend  Backend
	Family   envs.Family
	Template *Template
	Format   Format
	// Deadlines of a single call; 0 is two minutes.
	SampleTimeout, EnvTimeout, RecallTimeout time.Duration
	Log                                      zerolog.Logger // zero: silent
}

const (
	defaultTimeout = 2 * time.Minute
	maxTurns       = 1 << 20 // MaxSteps 0 still ends
)

// Run runs one episode to its end. It returns no error: what goes wrong makes
// the trajectory failed and stands in its Err, with the turns so far.
func (d *Driver) Run(ctx context.Context, s EpisodeSpec) Trajectory {
	start := time.Now()
	t := newTrajectory(s)
	t.Attempts = 1
	talk := NewConversation(d.Template, s.Keep)
	stop, err := d.episode(ctx, s, &t, talk)
	t.Stop = stop
	if err != nil {
		t.Stop, t.Err = StopFailed, err.Error()
	}
	t.Tipped, t.Bare, t.Splits = talk.Rows(true), talk.Rows(false), talk.Splits()
	t.Took = time.Since(start)
	return t
}

// episode opens the environment and closes it, whatever happens.
func (d *Driver) episode(ctx context.Context, s EpisodeSpec, t *Trajectory, talk *Conversation) (StopReason, error) {
	var env envs.Episode
	err := within(ctx, d.EnvTimeout, "open "+s.Task.ID, func(ctx context.Context) (err error) {
		env, err = d.Family.Open(ctx, s.Task)
		return err
	})
	if err != nil {
		return StopFailed, err
	}
	defer func() {
		if err := env.Close(); err != nil {
			d.Log.Warn().Err(err).Int64("step", t.Step).Int("group", t.Group).Int("rollout", t.Episode).
				Str("env", s.Task.ID).Msg("close episode")
		}
	}()
	return d.play(ctx, s, t, talk, env)
}

// play alternates between the policy and the environment.
func (d *Driver) play(ctx context.Context, s EpisodeSpec, t *Trajectory, talk *Conversation, env envs.Episode) (StopReason, error) {
	err := within(ctx, d.EnvTimeout, "reset "+s.Task.ID, func(ctx context.Context) (err error) {
		t.Final, err = env.Reset(ctx)
		return err
	})
	if err != nil {
		return StopFailed, err
	}
	limit := s.MaxSteps
	if limit <= 0 {
		limit = maxTurns
	}
	shown := newShown(s.Keep)
	messages := d.Format.Opening(s.Task)
	for i := range limit {
		start := time.Now()
		turn := Turn{Observation: t.Final}
		if err := d.recall(ctx, s, &turn, shown); err != nil {
			return StopFailed, fmt.Errorf("turn %d: %w", i, err)
		}
		messages = append(messages, d.Format.Turn(turn.Observation, turn.Tips))
		full, err := d.sample(ctx, s, t, i, &turn, talk, messages)
		if err != nil {
			return StopFailed, fmt.Errorf("turn %d: %w", i, err)
		}
		if full {
			return StopContextFull, nil
		}
		shown.add(turn.Tips)
		messages = nil
		step, err := d.act(ctx, env, turn.Action)
		if err != nil {
			return StopFailed, fmt.Errorf("turn %d: %w", i, err)
		}
		turn.Took = time.Since(start)
		t.add(turn, step)
		switch {
		case step.Terminated:
			return StopTerminated, nil
		case step.Truncated:
			return StopTruncated, nil
		}
	}
	return StopMaxSteps, nil
}

// add counts a finished turn.
func (t *Trajectory) add(turn Turn, s envs.Step) {
	turn.Reward, turn.Score = s.Reward, s.Score
	t.Turns = append(t.Turns, turn)
	t.Final = s.Observation
	t.EnvReturn += s.Reward
	t.Score = s.Score
	t.Success = t.Success || s.Success
}

// recall asks the memory about the turn's state and picks what is shown.
func (d *Driver) recall(ctx context.Context, s EpisodeSpec, turn *Turn, shown *shown) error {
	turn.Similar = -1
	if s.Recall == nil {
		return nil
	}
	return within(ctx, d.RecallTimeout, "recall tips", func(ctx context.Context) error {
		r, err := s.Recall(ctx, s.Task.Scope, turn.Observation.State)
		if err != nil {
			return err
		}
		turn.Similar = r.Similar
		turn.Tips = shown.pick(r.Tips, d.Format.MaxTipsPerTurn)
		return nil
	})
}

// sample fills the turn with what the policy writes. full says that the prompt
// is too long: then nothing was sampled and the conversation is as before.
func (d *Driver) sample(ctx context.Context, s EpisodeSpec, t *Trajectory, i int, turn *Turn, talk *Conversation, messages []Message) (full bool, err error) {
	var prompt []int32
	err = within(ctx, d.SampleTimeout, "render the prompt", func(ctx context.Context) (err error) {
		prompt, err = talk.Prompt(ctx, messages...)
		return err
	})
	if err != nil {
		return false, err
	}
	if s.MaxPrompt > 0 && len(prompt) > s.MaxPrompt {
		return true, nil
	}
	start := time.Now()
	c, err := d.complete(ctx, s.Policy, Request{
		Prompt: prompt, MaxTokens: s.MaxTokens, Temperature: s.Temperature,
		Seed: Seed(s.Seed, uint64(i)), Session: t.session(),
	})
	if errors.Is(err, ErrContextFull) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	turn.PromptLen, turn.Sample = len(prompt), time.Since(start)
	turn.IDs, turn.Logprobs = c.IDs, c.Logprobs
	turn.Action, turn.Finish, turn.Version = strings.TrimSpace(c.Text), c.Finish, c.Policy.Version
	return false, talk.Sampled(c.IDs, c.Logprobs)
}

// complete samples once and checks the answer.
func (d *Driver) complete(ctx context.Context, p Policy, r Request) (Completion, error) {
	var c Completion
	err := within(ctx, d.SampleTimeout, "sample "+p.Name, func(ctx context.Context) (err error) {
		c, err = d.Backend.Sample(ctx, p, r)
		return err
	})
	switch {
	case err != nil:
		return c, err
	case c.Policy.Version != p.Version:
		return c, fmt.Errorf("sample %s: version %d answered", p.Name, c.Policy.Version)
	case len(c.IDs) == 0:
		return c, fmt.Errorf("sample %s: no token", p.Name)
	case len(c.IDs) != len(c.Logprobs):
		return c, fmt.Errorf("sample %s: %d ids with %d log-probs", p.Name, len(c.IDs), len(c.Logprobs))
	}
	return c, nil
}

// act does one step of the environment.
func (d *Driver) act(ctx context.Context, env envs.Episode, action string) (envs.Step, error) {
	var s envs.Step
	err := within(ctx, d.EnvTimeout, "step", func(ctx context.Context) (err error) {
		s, err = env.Step(ctx, action)
		return err
	})
	if err == nil && (!finite(s.Reward) || !finite(s.Score)) {
		err = fmt.Errorf("step: reward %v and score %v are not finite", s.Reward, s.Score)
	}
	return s, err
}

// within runs f under a deadline (0: the default). The error names op and, if
// the deadline or the caller ended it, says so.
func within(ctx context.Context, d time.Duration, op string, f func(context.Context) error) error {
	if d <= 0 {
		d = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("no answer within %v", d))
	defer cancel()
	err := f(ctx)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		return fmt.Errorf("%s: %w (%w)", op, context.Cause(ctx), err)
	}
	return fmt.Errorf("%s: %w", op, err)
}
