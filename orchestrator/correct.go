package orchestrator

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

const (
	// measuredEpisodes are scored by the trainer before each step to see how
	// far the server's log-probs are off.
	measuredEpisodes = 8
	// scoredRows go into one request to the trainer.
	scoredRows = 64
	// farOff is a difference in nats that no rounding makes.
	farOff = 0.5
)

// correct measures the difference between sampler and trainer on some of the
// items and, where it is too large or the server gave no log-probs, replaces
// the old policy's log-probs by the trainer's in all of them. The tokens were
// drawn from the server's distribution all the same, so that each is weighted
// with min(π_trainer/π_server, cap): truncated importance sampling at the
// level of tokens ("Your efficient RL framework secretly brings you
// off-policy RL training", Yao et al. 2025). It returns new items.
func (l *Loop) correct(ctx context.Context, items []item, m *StepMetrics) ([]item, error) {
	withoutLogprobs := slices.ContainsFunc(items, func(it item) bool {
		return slices.ContainsFunc(it.sampled, func(s rollout.Row) bool { return s.WithoutLogprobs })
	})
	if !withoutLogprobs {
		some := items
		if len(items) > measuredEpisodes {
			some = make([]item, measuredEpisodes)
			for i := range some {
				some[i] = items[i*len(items)/measuredEpisodes]
			}
		}
		scores, err := l.scoreItems(ctx, some)
		if err != nil {
			return nil, err
		}
		if m.Mismatch, err = compare(some, scores); err != nil {
			return nil, err
		}
		if l.Config.Loss.MismatchCap == 0 || !l.off(m.Mismatch) {
			return items, nil
		}
	}
	scores, err := l.scoreItems(ctx, items)
	if err != nil {
		return nil, err
	}
	if !withoutLogprobs {
		if m.Mismatch, err = compare(items, scores); err != nil {
			return nil, err
		}
	}
	m.Corrected = true
	out := make([]item, len(items))
	for i, it := range items {
		if out[i], err = it.rescored(scores[i], l.Config.Loss.MismatchCap); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// off reports whether server and trainer differ too much: on average, or at
// single tokens by far.
func (l *Loop) off(m Mismatch) bool {
	tolerance := l.Config.Loss.MismatchTolerance
	return m.Mean > tolerance || m.Max > math.Max(farOff, 100*tolerance)
}

// scoreItems asks the trainer for log-probs of the rows as they were sampled:
// per item and row, one value less than tokens.
func (l *Loop) scoreItems(ctx context.Context, items []item) ([][][]float32, error) {
	var rows []trainerbridge.Row
	for _, it := range items {
		for _, s := range it.sampled {
			rows = append(rows, trainerbridge.Row{Tokens: s.Tokens})
		}
	}
	var flat [][]float32
	for batch := range slices.Chunk(rows, scoredRows) {
		scores, err := l.Trainer.Forward(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("score %d rows: %w", len(rows), err)
		}
		if len(scores) != len(batch) {
			return nil, fmt.Errorf("score %d rows: the trainer answered for %d", len(batch), len(scores))
		}
		flat = append(flat, scores...)
	}
	out := make([][][]float32, len(items))
	for i, it := range items {
		out[i], flat = flat[:len(it.sampled)], flat[len(it.sampled):]
	}
	return out, nil
}

func compare(items []item, scores [][][]float32) (Mismatch, error) {
	var rows []rollout.Row
	for _, it := range items {
		rows = append(rows, it.sampled...)
	}
	return compareLogprobs(rows, slices.Concat(scores...))
}

// rescored is it with the trainer's log-probs in place of the server's. Both
// renderings hold the same sampled tokens in the same order, so that what was
// scored in one is carried over to the other.
func (it item) rescored(scores [][]float32, limit float64) (item, error) {
	var logprobs, weights []float32
	for i, s := range it.sampled {
		if len(scores[i]) != len(s.Tokens)-1 {
			return it, fmt.Errorf("score a row of %d tokens: the trainer answered with %d log-probs", len(s.Tokens), len(scores[i]))
		}
		for k, trained := range s.LossMask {
			if !trained {
				continue
			}
			logprob, weight := scores[i][k-1], 1.0
			if v := float64(logprob); math.IsNaN(v) || math.IsInf(v, 0) || logprob > 1e-4 {
				return it, fmt.Errorf("score a row: the trainer's log-prob of token %d is %v", k, logprob)
			}
			logprob = min(logprob, 0)
			if !s.WithoutLogprobs && limit > 0 {
				weight = min(math.Exp(float64(logprob)-float64(s.Logprobs[k])), limit)
			}
			logprobs, weights = append(logprobs, logprob), append(weights, float32(weight))
		}
	}
	out := it
	out.rows, out.weights = make([]rollout.Row, len(it.rows)), make([][]float32, len(it.rows))
	for i, s := range it.rows {
		s.Logprobs, s.WithoutLogprobs = make([]float32, len(s.Tokens)), false
		out.weights[i] = make([]float32, len(s.Tokens))
		for k, trained := range s.LossMask {
			if !trained {
				continue
			}
			if len(logprobs) == 0 {
				return it, fmt.Errorf("row %d holds more sampled tokens than were scored", i)
			}
			s.Logprobs[k], out.weights[i][k] = logprobs[0], weights[0]
			logprobs, weights = logprobs[1:], weights[1:]
		}
		out.rows[i] = s
	}
	if len(logprobs) > 0 {
		return it, fmt.Errorf("%d sampled tokens are in no trained row", len(logprobs))
	}
	return out, nil
}

// likelyCause says what a mismatch looks like.
func likelyCause(m Mismatch) string {
	switch {
	case m.Mean > 0.3:
		return "as large as between two models: another base model, a wrong adapter, or one that is not applied"
	case m.Max > 100*m.Mean && m.Max > farOff:
		return "few tokens, far off: a stale prompt cache (llama-server: --cache-ram 0; vLLM: sampler.vllm.cache_salt), or one replica with old weights"
	default:
		return "all tokens, slightly: low precision (llama-server: sampler.llamacpp.exact_logprobs; vLLM: --dtype float32, --logprobs-mode processed_logprobs; else the trainer's dtype)"
	}
}
