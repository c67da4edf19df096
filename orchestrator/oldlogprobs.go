package orchestrator

import (
	"context"
	"fmt"
	"slices"

	"github.com/empo2/empo2/sampler/rollout"
)

// withoutTips gives the off-policy episodes the trainer's log-probs of their tokens in the
// context that is trained, without tips, as the old log-probs (loss.off_policy_logprobs =
// "no_tips"; EMPO², section 4.2 (b) and Algorithm 1). Importance weights stay: they compare
// server and trainer in the context that was sampled. Each token's log-prob is that of the
// version that sampled it. The episodes given are not changed.
func (c mismatchCorrection) withoutTips(ctx context.Context, episodes []trainedEpisode) ([]trainedEpisode, error) {
	out := slices.Clone(episodes)
	var which []int
	var asked []trainedEpisode
	for i, e := range episodes {
		if e.sampledContext {
			continue
		}
		e.sampled = e.rows // what is scored
		which, asked = append(which, i), append(asked, e)
	}
	if len(asked) == 0 {
		return out, nil
	}
	scores, err := c.scoreBySampler(ctx, asked)
	if err != nil {
		return nil, err
	}
	for n, i := range which {
		if out[i], err = out[i].withLogprobs(scores[n]); err != nil {
			key := rowKey{group: out[i].group, episode: out[i].number, row: wholeEpisode}
			return nil, &failedPass{err: err, keys: []rowKey{key}}
		}
	}
	return out, nil
}

// withLogprobs returns the episode with these log-probs of its trained rows' tokens[1:].
func (e trainedEpisode) withLogprobs(scores [][]float32) (trainedEpisode, error) {
	rows := make([]rollout.Row, len(e.rows))
	for i, r := range e.rows {
		scored, err := scoreTokens(r, scores[i])
		if err != nil {
			return e, fmt.Errorf("row %d without tips: %w", i, err)
		}
		r.Logprobs, r.WithoutLogprobs = make([]float32, len(r.Tokens)), false
		for k, trained := range r.LossMask {
			if trained {
				r.Logprobs[k], scored = scored[0].logprob, scored[1:]
			}
		}
		rows[i] = r
	}
	e.rows = rows
	return e, nil
}
