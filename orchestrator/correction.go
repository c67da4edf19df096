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
	// measuredEpisodes are scored by the trainer before each step to measure
	// the mismatch.
	measuredEpisodes = 8
	// rowsPerScoring go into one request to the trainer.
	rowsPerScoring = 64
)

// mismatchCorrection replaces the server's log-probs by the trainer's where
// they differ too much. The tokens were still drawn from the server's
// distribution, so each token gets an importance weight.
type mismatchCorrection struct {
	trainer   Trainer
	tolerance float64    // mean difference in nats
	weights   importance // if its high is 0: measure only
	versions  versionedTrainer
}

// correctedBatch are the episodes to train.
type correctedBatch struct {
	episodes  []trainedEpisode
	mismatch  Mismatch
	corrected bool // the log-probs are the trainer's
}

// run measures the mismatch on some of the episodes. If it is too large, or if
// the server gave no log-probs, all episodes get the trainer's log-probs. The
// episodes given are left unchanged.
func (c mismatchCorrection) run(ctx context.Context, episodes []trainedEpisode) (correctedBatch, error) {
	out := correctedBatch{episodes: episodes}
	compared := !slices.ContainsFunc(episodes, withoutLogprobs)
	if compared {
		_, mismatch, err := c.measure(ctx, Spread(c.versions.cheapest(episodes), measuredEpisodes), true)
		if err != nil {
			return out, err
		}
		out.mismatch = mismatch
		if c.weights.high == 0 || !mismatch.large(c.tolerance) {
			return out, nil
		}
	}
	scores, mismatch, err := c.measure(ctx, episodes, compared)
	if err != nil {
		return out, err
	}
	out.mismatch, out.corrected = mismatch, true
	out.episodes = make([]trainedEpisode, len(episodes))
	for i, e := range episodes {
		if out.episodes[i], err = e.rescored(scores[i], c.weights); err != nil {
			key := rowKey{group: e.group, episode: e.number, row: wholeEpisode}
			return out, &failedPass{err: err, keys: []rowKey{key}}
		}
	}
	return out, nil
}

func withoutLogprobs(e trainedEpisode) bool {
	return slices.ContainsFunc(e.sampled, func(r rollout.Row) bool { return r.WithoutLogprobs })
}

// Spread picks n values, evenly spaced; all if there are fewer.
func Spread[T any](values []T, n int) []T {
	if len(values) <= n {
		return values
	}
	out := make([]T, n)
	for i := range out {
		out[i] = values[i*len(values)/n]
	}
	return out
}

// measure returns the trainer's log-probs of the episodes' sampled rows and,
// if compared is set, how far the server's are from them.
func (c mismatchCorrection) measure(ctx context.Context, episodes []trainedEpisode, compared bool) (
	[][][]float32, Mismatch, error) {
	scores, err := c.scoreBySampler(ctx, episodes)
	if err != nil || !compared {
		return scores, Mismatch{}, err
	}
	var rows []rollout.Row
	for _, e := range episodes {
		rows = append(rows, e.sampled...)
	}
	mismatch, err := compareLogprobs(rows, slices.Concat(scores...))
	return scores, mismatch, err
}

// score asks the trainer, as it is, for log-probs of the rows as they were sampled: per
// episode and row, one value less than tokens.
func (c mismatchCorrection) score(ctx context.Context, episodes []trainedEpisode) ([][][]float32, error) {
	keys, lengths, rows := scoredEpisodes(episodes)
	var flat [][]float32
	for from := 0; from < len(rows); from += rowsPerScoring {
		to := min(from+rowsPerScoring, len(rows))
		batch := rows[from:to]
		scores, err := c.trainer.Forward(ctx, batch)
		if err == nil && len(scores) != len(batch) {
			return nil, fmt.Errorf("score %d rows: the trainer answered for %d", len(batch), len(scores))
		}
		if err != nil && ctx.Err() == nil && refusesRows(err) {
			err = &failedPass{err: err, keys: keys[from:to], lengths: lengths[from:to], try: c.scoring(batch)}
		}
		err = killed(err, keys[from:to], lengths[from:to])
		if err != nil {
			return nil, fmt.Errorf("score %d rows: %w", len(rows), err)
		}
		flat = append(flat, scores...)
	}
	out := make([][][]float32, len(episodes))
	for i, e := range episodes {
		out[i], flat = flat[:len(e.sampled)], flat[len(e.sampled):]
	}
	return out, nil
}

// scoring scores some of the rows again.
func (c mismatchCorrection) scoring(rows []trainerbridge.Row) attempt {
	return func(ctx context.Context, which []int) error {
		_, err := c.trainer.Forward(ctx, pick(rows, which))
		return err
	}
}

// scoredToken is a sampled token with the trainer's log-prob.
type scoredToken struct {
	logprob  float32
	logRatio float64 // less the server's; 0 if that is unknown
	weight   float32
}

// rescored returns the episode with the trainer's log-probs in place of the
// server's. Both renderings hold the same sampled tokens in the same order, so
// that the scores of one apply to the other.
func (e trainedEpisode) rescored(scores [][]float32, weights importance) (trainedEpisode, error) {
	var tokens []scoredToken
	for i, r := range e.sampled {
		scored, err := scoreTokens(r, scores[i])
		if err != nil {
			return e, err
		}
		tokens = append(tokens, scored...)
	}
	weigh(tokens, weights)
	out := e
	out.rows, out.importanceWeights = make([]rollout.Row, len(e.rows)), make([][]float32, len(e.rows))
	for i, r := range e.rows {
		r.Logprobs, r.WithoutLogprobs = make([]float32, len(r.Tokens)), false
		out.importanceWeights[i] = make([]float32, len(r.Tokens))
		for k, trained := range r.LossMask {
			if !trained {
				continue
			}
			if len(tokens) == 0 {
				return e, fmt.Errorf("row %d holds more sampled tokens than were scored", i)
			}
			r.Logprobs[k], out.importanceWeights[i][k] = tokens[0].logprob, tokens[0].weight
			tokens = tokens[1:]
		}
		out.rows[i] = r
	}
	if len(tokens) > 0 {
		return e, fmt.Errorf("%d sampled tokens are in no trained row", len(tokens))
	}
	return out, nil
}

// weigh gives the tokens of an episode their weights.
func weigh(tokens []scoredToken, weights importance) {
	ratios := make([]float64, len(tokens))
	for i, t := range tokens {
		ratios[i] = t.logRatio
	}
	for i, w := range weights.weights(ratios) {
		tokens[i].weight = w
	}
}

// scoreTokens returns the trained tokens of a sampled row with the trainer's
// log-probs.
func scoreTokens(r rollout.Row, scores []float32) ([]scoredToken, error) {
	if len(scores) != len(r.Tokens)-1 {
		return nil, fmt.Errorf("score a row of %d tokens: the trainer answered with %d log-probs",
			len(r.Tokens), len(scores))
	}
	var out []scoredToken
	for k, trained := range r.LossMask {
		if !trained {
			continue
		}
		logprob, ratio := scores[k-1], 0.0
		if v := float64(logprob); math.IsNaN(v) || math.IsInf(v, 0) || logprob > 1e-4 {
			return nil, fmt.Errorf("score a row: the trainer's log-prob of token %d is %v", k, logprob)
		}
		logprob = min(logprob, 0)
		if !r.WithoutLogprobs {
			ratio = float64(logprob) - float64(r.Logprobs[k])
		}
		out = append(out, scoredToken{logprob: logprob, logRatio: ratio})
	}
	return out, nil
}
