package orchestrator

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/empo2/empo2/orchestrator/advantage"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// item is one episode as it is trained.
type item struct {
	advantage float64
	// rows are trained: rendered with tips or, off-policy, without them; the
	// log-probs are always those of the context that was sampled.
	rows []rollout.Row
	// weights are the importance weights of the rows' tokens; nil: all 1.
	weights [][]float32
	// sampled are the rows as the policy was sampled in them.
	sampled []rollout.Row
	// anchors only carry the KL to the base model in the sampled context,
	// where that is not the trained one.
	anchors     []rollout.Row
	trained     int  // tokens trained in rows
	sameContext bool // the trained context is the sampled one
}

// items turns the groups that carry a gradient into what is trained. Every
// episode that was scored counts in its group's statistics (defects 5 and 6
// of the reference: none is dropped before or after).
func (l *Loop) items(plan Plan, groups [][]rollout.Trajectory, m *StepMetrics) []item {
	var out []item
	for g, group := range groups {
		var scored []rollout.Trajectory
		var episodes []advantage.Episode
		for e, t := range group {
			if t.Failed() {
				continue
			}
			mode := plan.Groups[g].Episodes[e].Mode
			scored = append(scored, t)
			episodes = append(episodes, advantage.Episode{
				Env: t.EnvReturn, Bonus: bonus(t, l.Config.Novelty.Weight),
				Tips: mode.Tips(), OffPolicy: mode == OffPolicy,
			})
		}
		m.Groups++
		baseline := advantage.Baseline(l.Config.Algorithm.Baseline)
		if l.Memory == nil {
			baseline = advantage.Group
		}
		advantages, ok := advantage.Estimate(episodes, baseline, l.Config.Algorithm.NormalizeStd)
		if !ok {
			m.NoGradient++
			continue
		}
		for i, t := range scored {
			if it := l.item(t, episodes[i], advantages[i]); it.trained > 0 {
				out = append(out, it)
			}
		}
	}
	return out
}

func (l *Loop) item(t rollout.Trajectory, e advantage.Episode, a float64) item {
	it := item{advantage: a, rows: t.Rows(e.Tips && !e.OffPolicy), sampled: t.Rows(true), sameContext: !e.OffPolicy}
	if e.OffPolicy && l.Config.Loss.KLSampled > 0 {
		it.anchors = t.Rows(true)
	}
	if l.Config.Rollout.MaskTruncated {
		it.rows, it.sampled = maskTruncated(it.rows, t.Turns), maskTruncated(it.sampled, t.Turns)
		it.anchors = maskTruncated(it.anchors, t.Turns)
	}
	for _, r := range it.rows {
		it.trained += countTrained(r)
	}
	return it
}

// maskTruncated returns the rows without the loss on replies that were cut off
// at the limit of tokens. The rows together hold the sampled tokens of the
// turns once each, in order.
func maskTruncated(rows []rollout.Row, turns []rollout.Turn) []rollout.Row {
	var cut []bool // per trained token
	for _, turn := range turns {
		for i := range turn.IDs {
			known := i < len(turn.Logprobs) && isFinite(turn.Logprobs[i])
			if known || len(rows) > 0 && rows[0].WithoutLogprobs {
				cut = append(cut, turn.Finish == sampler.FinishLength)
			}
		}
	}
	out := slices.Clone(rows)
	for i := range out {
		r := &out[i]
		r.LossMask, r.Logprobs = slices.Clone(r.LossMask), slices.Clone(r.Logprobs)
		for k, trained := range r.LossMask {
			if !trained || len(cut) == 0 {
				continue
			}
			if cut[0] {
				r.LossMask[k], r.Logprobs[k] = false, 0
			}
			cut = cut[1:]
		}
	}
	return out
}

func isFinite(x float32) bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }

func countTrained(s rollout.Row) int {
	n := 0
	for _, t := range s.LossMask {
		if t {
			n++
		}
	}
	return n
}

// miniBatches deals the items, shuffled, into as many mini-batches of at most
// loss.minibatch as it takes, of sizes as equal as can be: no optimizer step
// rests on a few left over.
func (l *Loop) miniBatches(items []item, version, epoch int) [][]item {
	order := rand.New(rand.NewPCG(l.Config.Run.Seed, childSeed(l.Config.Run.Seed, "minibatch", uint64(version),
		uint64(epoch)))).Perm(len(items))
	n := (len(items) + l.Config.Loss.MiniBatch - 1) / l.Config.Loss.MiniBatch
	out := make([][]item, n)
	for b := range out {
		for _, i := range order[b*len(items)/n : (b+1)*len(items)/n] {
			out[b] = append(out[b], items[i])
		}
	}
	return out
}

// rows renders one mini-batch. Losses are sums, so that every mean is folded
// into the coefficients here (loss.average).
func (l *Loop) rows(batch []item) []trainerbridge.Row {
	total := 0
	for _, it := range batch {
		total += it.trained
	}
	kl, klSampled := l.Config.Loss.KL, l.Config.Loss.KLSampled
	var out []trainerbridge.Row
	for _, it := range batch {
		scale := tokenScale(l.Config.Loss, it.trained, total, len(batch))
		coefficient := kl
		if it.sameContext {
			coefficient += klSampled
		}
		for i, s := range it.rows {
			r := row(s, it.advantage*scale, coefficient*scale)
			if it.weights != nil {
				r.ImportanceWeights = it.weights[i]
			}
			r.Entropy = perToken(s, l.Config.Loss.Entropy*scale)
			out = append(out, r)
		}
		for _, s := range it.anchors {
			out = append(out, anchor(s, klSampled*scale))
		}
	}
	return out
}

// tokenScale is what each token of an episode is multiplied with, so that the
// sum over a mini-batch is the average that loss.average names. trained are the
// episode's trained tokens, total those of the mini-batch.
func tokenScale(l config.Loss, trained, total, episodes int) float64 {
	switch l.Average {
	case "token": // 1/Σ|o_i| (DAPO)
		return 1 / float64(total)
	case "constant": // 1/(L·N): no length of a reply matters (Dr.GRPO, arXiv 2503.20783)
		return 1 / float64(l.AverageLength*episodes)
	default: // 1/(|o_i|·N) (GRPO and the paper)
		return 1 / float64(trained*episodes)
	}
}

// row trains the tokens of s with one advantage.
func row(s rollout.Row, advantage, kl float64) trainerbridge.Row {
	r := trainerbridge.Row{Tokens: s.Tokens, LossMask: s.LossMask}
	n := len(s.Tokens)
	r.Logprobs, r.Advantages = make([]float32, n), make([]float32, n)
	if kl > 0 {
		r.KL = make([]float32, n)
	}
	for i, trained := range s.LossMask {
		if !trained {
			continue
		}
		r.Logprobs[i], r.Advantages[i] = s.Logprobs[i], float32(advantage)
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

// anchor carries only the KL at the tokens of s.
func anchor(s rollout.Row, kl float64) trainerbridge.Row {
	r := row(s, 0, kl)
	r.LossMask = make([]bool, len(s.Tokens))
	clear(r.Logprobs)
	return r
}
