package rollout

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

// An episode is the state of one running episode. One goroutine uses it.
type episode struct {
	*Driver
	spec         EpisodeSpec
	t            *Trajectory
	env          envs.Episode
	conversation *Conversation
	tipsShown    *tipsShown
	opening      []chat.Message // the messages before the first turn; nil after it
	ended        chan struct{}  // closed after the last turn
}

// run opens the environment, plays the episode and closes the environment.
func (e *episode) run(ctx context.Context) (StopReason, error) {
	if err := e.checkThinking(); err != nil {
		return StopFailed, err
	}
	err := await(ctx, "environment", "open "+e.spec.Task.ID, e.EnvTimeout, func(ctx context.Context) (err error) {
		e.env, err = e.Family.Open(ctx, e.spec.Task)
		return err
	})
	if err != nil {
		return StopFailed, err
	}
	defer e.close()
	err = await(ctx, "environment", "reset "+e.spec.Task.ID, e.EnvTimeout, func(ctx context.Context) error {
		o, err := e.env.Reset(ctx)
		if err == nil {
			err = o.Bounded()
		}
		if err != nil {
			return err
		}
		e.t.Final = validObservation(o)
		return nil
	})
	if err != nil {
		return StopFailed, err
	}
	return e.play(ctx)
}

// checkThinking returns an error if the chat template does not support the Thinking mode.
func (e *episode) checkThinking() error {
	switch e.Thinking {
	case "", chat.ThinkingKeep:
		return nil
	case chat.ThinkingStrip:
		return e.ChatTemplate.CanStrip()
	}
	return fmt.Errorf("thinking %q: neither %q nor %q", e.Thinking, chat.ThinkingKeep, chat.ThinkingStrip)
}

func (e *episode) close() {
	if err := e.env.Close(); err != nil {
		e.Log.Warn().Err(err).Int64("step", e.t.Step).Int("group", e.t.Group).Int("episode", e.t.Episode).
			Str("env", e.spec.Task.ID).Msg("close episode")
	}
}

// play plays turns until the episode ends.
func (e *episode) play(ctx context.Context) (StopReason, error) {
	for e.spec.MaxTurns <= 0 || len(e.t.Turns) < e.spec.MaxTurns {
		stop, err := e.turn(ctx)
		if err != nil {
			return StopFailed, fmt.Errorf("turn %d: %w", len(e.t.Turns), err)
		}
		if stop != "" {
			return stop, nil
		}
	}
	return StopMaxTurns, nil
}

// turn plays one turn. It returns why the episode ended, or "" if it goes on.
func (e *episode) turn(ctx context.Context) (StopReason, error) {
	start := time.Now()
	turn := Turn{Observation: e.t.Final, Similar: -1}
	if err := e.recallTips(ctx, &turn); err != nil {
		return StopFailed, err
	}
	err := e.sample(ctx, &turn)
	if errors.Is(err, sampler.ErrContextFull) && len(e.t.Turns) > 0 {
		return StopContextFull, nil
	}
	if errors.Is(err, sampler.ErrContextFull) {
		err = fmt.Errorf("the first prompt does not fit into the context: %w", err)
	}
	if err != nil {
		return StopFailed, err
	}
	action := e.PromptTemplate.Action(turn.Action)
	if action != turn.Action {
		turn.Taken = action
	}
	s, err := e.act(ctx, action)
	if err != nil {
		return StopFailed, err
	}
	turn.Invalid = s.Invalid
	turn.Reward, turn.Score, turn.Took = s.Reward, s.Score, time.Since(start)
	e.t.Turns = append(e.t.Turns, turn)
	e.t.Final = validObservation(s.Observation)
	e.t.EnvReturn += s.Reward
	e.t.Score = s.Score
	e.t.Success = e.t.Success || s.Success
	switch {
	case s.Terminated:
		return StopTerminated, nil
	case s.Truncated:
		return StopTruncated, nil
	}
	return "", nil
}

// recallTips asks the memory for tips on the turn's state and picks the tips to show.
func (e *episode) recallTips(ctx context.Context, turn *Turn) error {
	if e.spec.Recall == nil {
		return nil
	}
	return await(ctx, "memory", "recall tips", e.RecallTimeout, func(ctx context.Context) error {
		recalled, err := e.spec.Recall(ctx, e.query(*turn))
		if err != nil {
			return err
		}
		turn.Similar = recalled.Similar
		turn.Tips = e.tipsShown.pick(recalled.Tips, e.PromptTemplate.MaxTipsPerTurn)
		for _, tip := range recalled.Tips {
			if !slices.ContainsFunc(turn.Tips, func(shown prompt.Tip) bool { return shown.ID == tip.ID }) {
				turn.Dropped = append(turn.Dropped, tip.ID)
			}
		}
		return nil
	})
}

// recallSeeds sets the memory's random choices apart from those of the sampler.
const recallSeeds = 0x7ec4

// query returns the question to the memory about a turn.
func (e *episode) query(turn Turn) Query {
	return Query{Scope: e.spec.Task.Scope, State: turn.Observation.State,
		Seed: sampler.Seed(e.spec.Seed, recallSeeds, uint64(len(e.t.Turns)))}
}

// sample samples the policy's reply and stores it in the turn. If the prompt is too long, it returns
// [sampler.ErrContextFull] and does not change the conversation.
func (e *episode) sample(ctx context.Context, turn *Turn) error {
	ids, err := e.prompt(ctx, turn)
	if err != nil {
		return err
	}
	start := time.Now()
	request := sampler.Request{
		Prompt: ids, MaxTokens: e.spec.MaxTokens, Temperature: e.spec.Temperature,
		TopP: e.spec.TopP, TopK: e.spec.TopK, Stop: e.spec.Stop,
		Seed: sampler.Seed(e.spec.Seed, uint64(len(e.t.Turns))), Session: e.t.session(), SessionEnd: e.ended,
		Messages: e.conversation.Messages(), Written: e.watched(*turn),
	}
	var c sampler.Completion
	var used sampler.Policy
	err = Served(e.spec.policy, func(p sampler.Policy) (err error) {
		c, err = e.reply(ctx, p, request, turn)
		used = p
		return err
	})
	if err != nil {
		return err
	}
	if len(e.t.Turns) == 0 {
		e.t.Policy = used
	}
	turn.PromptLen, turn.Sample = len(ids), time.Since(start)
	turn.IDs, turn.Logprobs = c.IDs, c.Logprobs
	turn.Finish, turn.Version = c.Finish, c.Policy.Version
	text := validText(c.Text)
	turn.Opened = e.opened(c.Finish)
	turn.Action = e.answer(c)
	if text != turn.Action {
		turn.Text = text
	}
	e.opening = nil
	e.tipsShown.add(turn.Tips)
	return e.conversation.AddCompletion(c.IDs, c.Logprobs, chat.Neutralize(text, e.Neutralize))
}

// answer returns a reply without its thought.
func (e *episode) answer(c sampler.Completion) string {
	return chat.Answer(e.opened(c.Finish) + validText(c.Text))
}

// actionOf returns the action of a reply.
func (e *episode) actionOf(c sampler.Completion) string { return e.PromptTemplate.Action(e.answer(c)) }

// watched shows a turn, and returns a function that shows its reply while it is written. Nil: nobody watches.
func (e *episode) watched(turn Turn) func(text string) {
	if e.spec.Watch == nil {
		return nil
	}
	before := e.t.Turns
	e.spec.Watch(before, turn, "")
	return func(text string) { e.spec.Watch(before, turn, validText(text)) }
}

// prompt renders the turn's messages after the conversation so far and stores them in the turn.
func (e *episode) prompt(ctx context.Context, turn *Turn) (prompt []int32, err error) {
	messages := append(e.opening, e.PromptTemplate.Turn(turn.Observation, turn.Tips))
	messages = chat.NeutralizeMessages(messages, e.Neutralize)
	turn.Prompt = messages
	err = await(ctx, "server", "render the prompt", e.SampleTimeout, func(ctx context.Context) (err error) {
		prompt, err = e.conversation.Prompt(ctx, messages...)
		return err
	})
	if err == nil && e.spec.MaxPrompt > 0 && len(prompt) > e.spec.MaxPrompt {
		return nil, fmt.Errorf("%d tokens, %d allowed: %w", len(prompt), e.spec.MaxPrompt, sampler.ErrContextFull)
	}
	return prompt, err
}

// MaxReturn bounds the sum of an episode's rewards, and its score. Sums of squares stay finite, and float32, in which
// the trainer computes, holds the values.
const MaxReturn = 1e30

// act sends the action to the environment.
func (e *episode) act(ctx context.Context, action string) (envs.Step, error) {
	var s envs.Step
	err := await(ctx, "environment", "step", e.EnvTimeout, func(ctx context.Context) (err error) {
		s, err = e.env.Step(ctx, action)
		return err
	})
	switch sum := e.t.EnvReturn + s.Reward; {
	case err != nil:
	case !finite(s.Reward) || !finite(s.Score):
		err = fmt.Errorf("step: reward %v and score %v are not finite", s.Reward, s.Score)
	case math.Abs(sum) > MaxReturn || math.Abs(s.Score) > MaxReturn:
		err = fmt.Errorf("step: the sum of rewards is %g and the score %g, beyond ±%g", sum, s.Score, MaxReturn)
	default:
		if err = s.Observation.Bounded(); err != nil {
			err = fmt.Errorf("step: %w", err)
		}
	}
	return s, err
}

// validObservation replaces invalid UTF-8 in an observation. Otherwise the ledger would return another text than the
// policy saw.
func validObservation(o envs.Observation) envs.Observation {
	return envs.Observation{Feedback: validText(o.Feedback), State: validText(o.State)}
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
