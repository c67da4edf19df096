package orchestrator

import (
	"math/rand/v2"
	"slices"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// miniBatches deals the shuffled episodes into mini-batches of at most size,
// as few and as equal as possible: no optimizer step depends on a small rest.
func miniBatches(episodes []trainedEpisode, size int, rng *rand.Rand) [][]trainedEpisode {
	order := rng.Perm(len(episodes))
	n := (len(episodes) + size - 1) / size
	out := make([][]trainedEpisode, n)
	for b := range out {
		for _, i := range order[b*len(episodes)/n : (b+1)*len(episodes)/n] {
			out[b] = append(out[b], episodes[i])
		}
	}
	return out
}

// miniBatchOrder is the random order of one epoch.
func miniBatchOrder(seed uint64, version, epoch int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, childSeed(seed, "minibatch", uint64(version), uint64(epoch))))
}

// rows renders one mini-batch without the rows that are left out, and names each
// row. Losses are sums, so that every mean is folded into the coefficients here
// (loss.average). Rows that carry neither an advantage nor a KL nor an entropy
// bonus have no gradient. They count in the averages and are not sent.
func rows(batch []trainedEpisode, c config.Loss, left leftOut) (out []trainerbridge.Row, keys []rowKey) {
	sizes := sizesOf(batch)
	for _, e := range batch {
		scale := sizes.tokenScale(c, e)
		kl := c.KL
		if e.sampledContext {
			kl += c.KLSampled
		}
		trained := e.rows
		if !e.hasAdvantage() && kl == 0 && c.Entropy == 0 {
			trained = nil // no gradient
		}
		byToken := e.byToken
		for i, s := range trained {
			advantages := e.ofRow(s, &byToken)
			k := rowKey{group: e.group, episode: e.number, row: i}
			if left.has(k) {
				continue
			}
			r := row(s, advantages, scale, kl*scale)
			// The floor is for tokens that the trained context makes almost impossible.
			r.FloorExempt = e.sampledContext
			if e.importanceWeights != nil {
				r.ImportanceWeights = e.importanceWeights[i]
			}
			r.Entropy = perToken(s, c.Entropy*scale)
			out, keys = append(out, r), append(keys, k)
		}
		for i, s := range e.klRows {
			if k := (rowKey{group: e.group, episode: e.number, row: i, kl: true}); !left.has(k) {
				out, keys = append(out, klRow(s, c.KLSampled*scale)), append(keys, k)
			}
		}
	}
	return out, keys
}

// batchSizes are the denominators of a mini-batch's averages.
type batchSizes struct {
	episodes, tokens int
	groups           map[int]int // trained tokens by group
}

func sizesOf(batch []trainedEpisode) batchSizes {
	s := batchSizes{episodes: len(batch), groups: map[int]int{}}
	for _, e := range batch {
		s.tokens += e.tokens
		s.groups[e.group] += e.tokens
	}
	return s
}

// tokenScale is what each token of an episode is multiplied with, so that the
// sum over a mini-batch is the average that loss.average names.
func (s batchSizes) tokenScale(l config.Loss, e trainedEpisode) float64 {
	switch l.Average {
	case "token": // 1/Σ|o_i| (DAPO)
		return 1 / float64(s.tokens)
	case "constant": // 1/(L·N): no length of a reply matters (Dr.GRPO, arXiv 2503.20783)
		return 1 / float64(l.AverageLength*s.episodes)
	case "prompt": // 1/(Σ|o_i| of the group · groups)
		return 1 / float64(s.groups[e.group]*len(s.groups))
	default: // 1/(|o_i|·N) (GRPO and the paper)
		return 1 / float64(e.tokens*s.episodes)
	}
}

// hasAdvantage reports whether a token has one.
func (e trainedEpisode) hasAdvantage() bool {
	return e.advantage != 0 || slices.ContainsFunc(e.byToken, func(a float64) bool { return a != 0 })
}

// ofRow returns the advantage of the n-th trained token of a row. It takes the row's own
// from the front of byToken, if the tokens of the episode differ.
func (e trainedEpisode) ofRow(r rollout.Row, byToken *[]float64) func(n int) float64 {
	if e.byToken == nil {
		return func(int) float64 { return e.advantage }
	}
	own := *byToken
	*byToken = own[min(countTrained(r), len(own)):]
	return func(n int) float64 { return own[n] }
}

// row trains the tokens of s with their advantages, each times scale.
func row(s rollout.Row, advantage func(n int) float64, scale, kl float64) trainerbridge.Row {
	r := trainerbridge.Row{Tokens: s.Tokens, LossMask: s.LossMask}
	n := len(s.Tokens)
	r.Logprobs, r.Advantages = make([]float32, n), make([]float32, n)
	if kl > 0 {
		r.KL = make([]float32, n)
	}
	n = 0
	for i, trained := range s.LossMask {
		if !trained {
			continue
		}
		r.Logprobs[i], r.Advantages[i] = s.Logprobs[i], float32(advantage(n)*scale)
		n++
		if kl > 0 {
			r.KL[i] = float32(kl)
		}
	}
	return r
}

// perToken is a coefficient at the trained tokens of s; nil for 0.
func perToken(s rollout.Row, coefficient float64) []float32 {
	if coefficient == 0 {
		return nil
	}
	out := make([]float32, len(s.Tokens))
	for i, trained := range s.LossMask {
		if trained {
			out[i] = float32(coefficient)
		}
	}
	return out
}

// klRow carries only the KL at the tokens of s.
func klRow(s rollout.Row, kl float64) trainerbridge.Row {
	r := row(s, func(int) float64 { return 0 }, 1, kl)
	r.LossMask = make([]bool, len(s.Tokens))
	clear(r.Logprobs)
	return r
}
