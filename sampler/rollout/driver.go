// Package rollout turns a policy and an environment into trajectories.
//
// The [Driver] plays one episode, the [Scheduler] many at the same time. A
// [Conversation] keeps the rows of an episode with and without tips, and the
// policy is asked for a tip when the episode is over ([Driver.Reflect]).
package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

// Driver runs episodes: it stands between one environment family and one
// backend. It has no state of its own and is safe for concurrent use.
type Driver struct {
	Backend sampler.Backend
	Family  envs.Family
	// ChatTemplate renders prompts to ids. Nil plays episodes on messages, for
	// servers that take and give text only: there are turns and tips as ever,
	// but nothing to train on, and limits of tokens are the server's.
	ChatTemplate *chat.Template
	// PromptTemplate turns observations into messages and replies into actions.
	PromptTemplate prompt.Template
	Thinking       chat.Thinking // empty: chat.ThinkingKeep
	// CleanTip makes a tip of a reply without its thought. A tip of more than
	// limit characters is cut; 0: never. Nil only trims white space.
	CleanTip func(reply string, limit int) string
	// Retokenised: the backend's ids are a tokenizer's reading of the server's
	// text, so that the trainer's log-probs must be taken for all of them.
	Retokenised bool
	// Neutral are control tokens that are broken up wherever a message says
	// them as text ([chat.Neutralize]), for servers that parse text.
	Neutral []string
	// Deadlines of a single call; 0 is two minutes.
	SampleTimeout, EnvTimeout, RecallTimeout time.Duration
	Log                                      zerolog.Logger // zero: silent
}

// Run runs one episode to its end. It returns no error: what goes wrong makes
// the trajectory failed and stands in its Err, with the turns so far.
func (d *Driver) Run(ctx context.Context, s EpisodeSpec) Trajectory {
	start := time.Now()
	t := newTrajectory(s)
	t.Attempts = 1
	r := &episode{
		Driver: d, spec: s, t: &t, tipsShown: newTipsShown(s.Keep),
		conversation: NewConversation(d.ChatTemplate, s.Keep, d.Thinking), opening: d.PromptTemplate.Opening(s.Task),
	}
	if d.Retokenised {
		r.conversation.rowsWithoutLogprobs()
	}
	stop, err := r.run(ctx)
	t.Stop = stop
	if err != nil {
		t.Stop, t.Err = StopFailed, validText(err.Error())
	}
	t.RowsWithTips, t.RowsWithoutTips = r.conversation.Rows(true), r.conversation.Rows(false)
	t.SplitReasons = r.conversation.Splits()
	for _, n := range t.SplitReasons {
		t.Splits += n
	}
	if d.ChatTemplate != nil {
		t.Unstable = d.ChatTemplate.Unstable()
	}
	t.Took = time.Since(start)
	return t
}

// complete samples once and checks the answer. Ids may be missing only where
// there is no template.
func (d *Driver) complete(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	var c sampler.Completion
	err := sampler.WithDeadline(ctx, d.SampleTimeout, "sample "+p.Name, func(ctx context.Context) (err error) {
		c, err = d.Backend.Sample(ctx, p, r)
		return err
	})
	switch {
	case err != nil:
		return c, err
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
