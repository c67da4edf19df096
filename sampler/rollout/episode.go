package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// An episode under way, driven by one goroutine.
type episode struct {
	*Driver
	spec         EpisodeSpec
	t            *Trajectory
	env          envs.Episode
	conversation *Conversation
	tipsShown    *tipsShown
	opening      []chat.Message // what the first prompt begins with
}

// run opens the environment, plays, and closes it, whatever happens.
func (r *episode) run(ctx context.Context) (StopReason, error) {
	if err := r.checkThinking(); err != nil {
		return StopFailed, err
	}
	err := sampler.WithDeadline(ctx, r.EnvTimeout, "open "+r.spec.Task.ID, func(ctx context.Context) (err error) {
		r.env, err = r.Family.Open(ctx, r.spec.Task)
		return err
	})
	if err != nil {
		return StopFailed, err
	}
	defer r.close()
	err = sampler.WithDeadline(ctx, r.EnvTimeout, "reset "+r.spec.Task.ID, func(ctx context.Context) error {
		o, err := r.env.Reset(ctx)
		r.t.Final = valid(o)
		return err
	})
	if err != nil {
		return StopFailed, err
	}
	return r.play(ctx)
}

// checkThinking checks that what should happen to thoughts can be done.
func (r *episode) checkThinking() error {
	switch r.Thinking {
	case "", chat.ThinkingKeep:
		return nil
	case chat.ThinkingStrip:
		return r.ChatTemplate.CanStrip()
	}
	return fmt.Errorf("thinking %q: neither %q nor %q", r.Thinking, chat.ThinkingKeep, chat.ThinkingStrip)
}

func (r *episode) close() {
	if err := r.env.Close(); err != nil {
		r.Log.Warn().Err(err).Int64("step", r.t.Step).Int("group", r.t.Group).Int("episode", r.t.Episode).
			Str("env", r.spec.Task.ID).Msg("close episode")
	}
}

// play alternates between the policy and the environment.
func (r *episode) play(ctx context.Context) (StopReason, error) {
	for r.spec.MaxSteps <= 0 || len(r.t.Turns) < r.spec.MaxSteps {
		stop, err := r.turn(ctx)
		if err != nil {
			return StopFailed, fmt.Errorf("turn %d: %w", len(r.t.Turns), err)
		}
		if stop != "" {
			return stop, nil
		}
	}
	return StopMaxSteps, nil
}

// turn does one turn. It returns why the episode is over, or "".
func (r *episode) turn(ctx context.Context) (StopReason, error) {
	start := time.Now()
	turn := Turn{Observation: r.t.Final, Similar: -1}
	if err := r.recall(ctx, &turn); err != nil {
		return StopFailed, err
	}
	err := r.sample(ctx, &turn)
	if errors.Is(err, sampler.ErrContextFull) {
		return StopContextFull, nil
	}
	if err != nil {
		return StopFailed, err
	}
	s, err := r.act(ctx, r.PromptTemplate.Action(turn.Action))
	if err != nil {
		return StopFailed, err
	}
	turn.Reward, turn.Score, turn.Took = s.Reward, s.Score, time.Since(start)
	r.t.Turns = append(r.t.Turns, turn)
	r.t.Final = valid(s.Observation)
	r.t.EnvReturn += s.Reward
	r.t.Score = s.Score
	r.t.Success = r.t.Success || s.Success
	switch {
	case s.Terminated:
		return StopTerminated, nil
	case s.Truncated:
		return StopTruncated, nil
	}
	return "", nil
}

// recall asks the memory about the turn's state and picks what is shown.
func (r *episode) recall(ctx context.Context, turn *Turn) error {
	if r.spec.Recall == nil {
		return nil
	}
	return sampler.WithDeadline(ctx, r.RecallTimeout, "recall tips", func(ctx context.Context) error {
		recalled, err := r.spec.Recall(ctx, r.spec.Task.Scope, turn.Observation.State)
		if err != nil {
			return err
		}
		turn.Similar = recalled.Similar
		turn.Tips = r.tipsShown.pick(recalled.Tips, r.PromptTemplate.MaxTipsPerTurn)
		return nil
	})
}

// sample fills the turn with what the policy writes. A prompt that is too long
// is [sampler.ErrContextFull] and leaves the conversation as it was.
func (r *episode) sample(ctx context.Context, turn *Turn) error {
	prompt, err := r.prompt(ctx, turn)
	if err != nil {
		return err
	}
	start := time.Now()
	c, err := r.complete(ctx, r.spec.Policy, sampler.Request{
		Prompt: prompt, MaxTokens: r.spec.MaxTokens, Temperature: r.spec.Temperature,
		TopP: r.spec.TopP, TopK: r.spec.TopK, Stop: r.spec.Stop,
		Seed: sampler.Seed(r.spec.Seed, uint64(len(r.t.Turns))), Session: r.t.session(),
		Messages: r.conversation.Messages(),
	})
	if err != nil {
		return err
	}
	turn.PromptLen, turn.Sample = len(prompt), time.Since(start)
	turn.IDs, turn.Logprobs = c.IDs, c.Logprobs
	turn.Finish, turn.Version = c.Finish, c.Policy.Version
	text := validText(c.Text)
	turn.Action = chat.Answer(text)
	if text != turn.Action {
		turn.Text = text
	}
	r.opening = nil
	r.tipsShown.add(turn.Tips)
	return r.conversation.Sampled(c.IDs, c.Logprobs, chat.Neutralize(text, r.Neutral))
}

// prompt renders the turn after what was said before. The turn keeps the
// messages as they were shown.
func (r *episode) prompt(ctx context.Context, turn *Turn) (prompt []int32, err error) {
	messages := append(r.opening, r.PromptTemplate.Turn(turn.Observation, turn.Tips))
	messages = chat.NeutralizeMessages(messages, r.Neutral)
	turn.Prompt = messages
	err = sampler.WithDeadline(ctx, r.SampleTimeout, "render the prompt", func(ctx context.Context) (err error) {
		prompt, err = r.conversation.Prompt(ctx, messages...)
		return err
	})
	if err == nil && r.spec.MaxPrompt > 0 && len(prompt) > r.spec.MaxPrompt {
		return nil, fmt.Errorf("%d tokens, %d allowed: %w", len(prompt), r.spec.MaxPrompt, sampler.ErrContextFull)
	}
	return prompt, err
}

// act does one step of the environment.
func (r *episode) act(ctx context.Context, action string) (envs.Step, error) {
	var s envs.Step
	err := sampler.WithDeadline(ctx, r.EnvTimeout, "step", func(ctx context.Context) (err error) {
		s, err = r.env.Step(ctx, action)
		return err
	})
	if err == nil && (!finite(s.Reward) || !finite(s.Score)) {
		err = fmt.Errorf("step: reward %v and score %v are not finite", s.Reward, s.Score)
	}
	return s, err
}

// valid makes an observation storable: text that is not UTF-8 would come back
// from the ledger as another text than the policy saw.
func valid(o envs.Observation) envs.Observation {
	return envs.Observation{Feedback: validText(o.Feedback), State: validText(o.State)}
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
