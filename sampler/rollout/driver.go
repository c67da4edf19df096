// Package rollout plays episodes of a policy in an environment and turns them into training rows.
//
// Start with [Driver]: [Driver.Run] plays the episode that an [EpisodeSpec] describes and returns a [Trajectory].
// [Scheduler] plays many episodes at the same time. In each turn the data flows in this order:
//
//  1. Recall: the memory returns tips for the state (recallTips). tipsShown drops those that the prompt already shows.
//  2. Prompt: package prompt renders observation and tips to messages. Tips enter the prompt there
//     (prompt.Template.Turn).
//  3. Sample: [Conversation] renders the messages to token ids twice, with and without tips. Off-policy rows lose their
//     tips there (messagesWithoutTips). The backend samples from the prompt with tips.
//  4. Act: the environment gets the action and returns a reward and the next observation.
//
// Every trajectory has [Row] slices for both renderings: RowsWithTips and RowsWithoutTips. After the episode
// [Driver.Reflect] asks the policy for a tip.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

// Driver plays episodes of one environment family with one backend. It has no state and is safe for concurrent use.
type Driver struct {
	Backend sampler.Backend
	Family  envs.Family
	// ChatTemplate renders prompts to ids. Nil: prompts are messages, for servers of text only. Such episodes have
	// turns and tips but no rows, and MaxPrompt has no effect.
	ChatTemplate *chat.Template
	// PromptTemplate turns observations into messages and replies into actions.
	PromptTemplate prompt.Template
	Thinking       chat.Thinking // empty: chat.ThinkingKeep
	// Retokenized says that the backend's ids are a re-tokenization of the server's text. The rows then have no
	// log-probs, and the trainer must compute them.
	Retokenized bool
	// Neutralize lists control tokens that are broken up if they occur in the text of a message ([chat.Neutralize]),
	// for servers that parse control tokens in text.
	Neutralize []string
	// CleanTip extracts a tip of at most limit characters (0: no limit) from a reply without its thought. Nil only
	// trims white space.
	CleanTip func(reply string, limit int) string
	// Deadlines of a single call; 0: two minutes.
	SampleTimeout, EnvTimeout, RecallTimeout time.Duration
	Log                                      zerolog.Logger // zero: silent
}

// Run plays one episode to its end. It returns no error: a failure ends the episode with StopFailed, and the trajectory
// has the error in Err and the turns before it.
func (d *Driver) Run(ctx context.Context, s EpisodeSpec) Trajectory {
	start := time.Now()
	t := newTrajectory(s)
	ctx = watchdog.Label(ctx, fmt.Sprintf("step %d, episode %d/%d", s.Step, s.Group, s.Episode))
	t.Attempts = 1
	ended := make(chan struct{})
	defer close(ended)
	e := &episode{
		ended:  ended,
		Driver: d, spec: s, t: &t, tipsShown: newTipsShown(s.Keep),
		conversation: NewConversation(d.ChatTemplate, s.Keep, d.Thinking), opening: d.PromptTemplate.Opening(s.Task),
	}
	if d.Retokenized {
		e.conversation.setWithoutLogprobs()
	}
	stop, err := e.run(ctx)
	t.Stop = stop
	if err != nil {
		t.Stop, t.Err = stopOf(err), validText(err.Error())
	}
	t.RowsWithTips, t.RowsWithoutTips = e.conversation.Rows(true), e.conversation.Rows(false)
	if equalRows(t.RowsWithTips, t.RowsWithoutTips) { // most of an episode's memory
		t.RowsWithoutTips = t.RowsWithTips
	}
	t.SplitReasons = e.conversation.Splits()
	for _, n := range t.SplitReasons {
		t.Splits += n
	}
	if d.ChatTemplate != nil {
		t.Unstable = d.ChatTemplate.Unstable()
	}
	t.Took = time.Since(start)
	return t
}

// ErrNotAwaited is the cause of a context that cancels an episode because its step does not wait for it.
var ErrNotAwaited = errors.New("the step does not wait for this episode: it is past its deadline, and the quorum " +
	"does not need it (rollout.quorum, rollout.deadline_seconds)")

// stopOf returns how an error ends an episode.
func stopOf(err error) StopReason {
	if errors.Is(err, ErrNotAwaited) {
		return StopCancelled
	}
	return StopFailed
}

// await calls f with a deadline (0: two minutes). Until f returns, the watchdog knows what is waited for.
func await(ctx context.Context, subsystem, op string, limit time.Duration, f func(context.Context) error) error {
	if limit <= 0 {
		limit = 2 * time.Minute
	}
	defer watchdog.Begin(ctx, subsystem, op, limit)()
	return sampler.WithDeadline(ctx, limit, op, f)
}

// Served calls sample with the newest version. If that version was retired since, because a newer one replaced it,
// Served calls sample again.
func Served(newest func() sampler.Policy, sample func(sampler.Policy) error) error {
	for p := newest(); ; {
		err := sample(p)
		next := newest()
		if next == p || !errors.Is(err, sampler.ErrPolicyGone) {
			return err
		}
		p = next
	}
}

// maxTokenBytes bounds the text of a token: the longest ones of today's vocabularies are runs of
// a few hundred spaces.
const maxTokenBytes = 1 << 10

// complete samples once and checks the completion. It must have ids unless there is no chat template.
func (d *Driver) complete(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	var c sampler.Completion
	err := await(ctx, "server", "sample "+p.Name, d.SampleTimeout, func(ctx context.Context) (err error) {
		c, err = d.Backend.Sample(ctx, p, r)
		return err
	})
	switch {
	case err != nil:
		return c, err
	case len(c.IDs) > r.MaxTokens || len(c.Text) > maxTokenBytes*(r.MaxTokens+1):
		return c, fmt.Errorf("sample %s: an answer of %d tokens and %d bytes, but %d tokens were asked for", p.Name,
			len(c.IDs), len(c.Text), r.MaxTokens)
	case c.Policy.Version != p.Version:
		return c, fmt.Errorf("sample %s: version %d answered", p.Name, c.Policy.Version)
	case len(c.IDs) == 0 && d.ChatTemplate == nil:
		return c, nil
	case len(c.IDs) == 0:
		return c, fmt.Errorf("sample %s: no token", p.Name)
	case len(c.IDs) != len(c.Logprobs):
		return c, fmt.Errorf("sample %s: %d ids with %d log-probs", p.Name, len(c.IDs), len(c.Logprobs))
	}
	return c, nil
}
