package rollout

import (
	"context"
	"fmt"
	"math"

	"github.com/empo2/empo2/sampler"
)

// Candidate is an action that the policy proposes in a state.
type Candidate struct {
	Action  string  `json:"action"`
	Logprob float64 `json:"logprob"` // in nats, up to a constant that all candidates share
}

// ChooseFunc has a memory choose among the actions that the policy proposes. It may return an action that is not among
// them. It must be safe for concurrent use.
type ChooseFunc func(ctx context.Context, q Query, candidates []Candidate) (action string, err error)

// reply samples the reply of a turn. If a memory chooses, several replies are sampled, and it chooses among their
// actions. Such an episode must not be trained on: its replies are not the policy's alone.
func (e *episode) reply(
	ctx context.Context, p sampler.Policy, r sampler.Request, turn *Turn,
) (sampler.Completion, error) {
	if e.spec.Choose == nil {
		return e.complete(ctx, p, r)
	}
	first := r.Seed
	var proposals []proposal
	for i := range max(1, e.spec.Candidates) {
		if i > 0 {
			r.Seed, r.Written = sampler.Seed(first, uint64(i)), nil
		}
		c, err := e.complete(ctx, p, r)
		if err != nil {
			return c, err
		}
		proposals = e.propose(proposals, c)
	}
	turn.Candidates = candidates(proposals)
	var action string
	err := await(ctx, "memory", "choose an action", e.RecallTimeout, func(ctx context.Context) (err error) {
		action, err = e.spec.Choose(ctx, e.query(*turn), turn.Candidates)
		return err
	})
	if err != nil {
		return sampler.Completion{}, err
	}
	for _, proposed := range proposals {
		if proposed.action == action {
			return proposed.Completion, nil
		}
	}
	return e.written(ctx, p, action)
}

// A proposal is a distinct action, the first reply with it, and the number of replies with it.
type proposal struct {
	sampler.Completion
	action string
	n      int
}

// propose counts a reply among the proposals.
func (e *episode) propose(proposals []proposal, c sampler.Completion) []proposal {
	action := e.actionOf(c)
	for i := range proposals {
		if proposals[i].action == action {
			proposals[i].n++
			return proposals
		}
	}
	return append(proposals, proposal{c, action, 1})
}

// candidates returns the proposals with their log-probabilities: the sum over the tokens
// of the reply, or, if the server gives none, the logarithm of their number.
func candidates(proposals []proposal) []Candidate {
	out := make([]Candidate, len(proposals))
	complete := true
	for i, p := range proposals {
		out[i].Action = p.action
		for _, l := range p.Logprobs {
			out[i].Logprob += float64(l)
		}
		complete = complete && len(p.Logprobs) > 0 && finite(out[i].Logprob)
	}
	for i, p := range proposals {
		if !complete {
			out[i].Logprob = math.Log(float64(p.n))
		}
	}
	return out
}

// written returns the reply with an action that the policy has not proposed. Its log-probs are unknown.
func (e *episode) written(ctx context.Context, p sampler.Policy, action string) (sampler.Completion, error) {
	text := e.PromptTemplate.Reply(action)
	c := sampler.Completion{Text: text, Finish: sampler.FinishStop, Policy: p}
	if e.ChatTemplate == nil {
		return c, nil
	}
	ids, err := e.ChatTemplate.Reply(ctx, text)
	if err != nil {
		return c, fmt.Errorf("write the action %q of the memory: %w", action, err)
	}
	c.IDs, c.Logprobs = ids, make(sampler.Logprobs, len(ids))
	for i := range c.Logprobs {
		c.Logprobs[i] = float32(math.NaN())
	}
	return c, nil
}
