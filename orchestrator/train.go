package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/empo2/empo2/orchestrator/advantage"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// wakeTimeout bounds how long a server may take to wake: it reads its weights
// back.
const wakeTimeout = 10 * time.Minute

// item is one episode as it is trained.
type item struct {
	advantage float64
	// rows are trained: rendered with tips or, off-policy, without them; the
	// log-probs are always those of the context that was sampled.
	rows []sampler.Sequence
	// weights are the importance weights of the rows' trained tokens; nil: all 1.
	weights [][]float32
	// sampled are the rows as the policy was sampled in them.
	sampled []sampler.Sequence
	// anchors only carry the KL to the base model in the sampled context,
	// where that is not the trained one.
	anchors     []sampler.Sequence
	trained     int  // tokens trained in rows
	sameContext bool // the trained context is the sampled one
}

// items turns the groups that carry a gradient into what is trained. Every
// episode that was scored counts in its group's statistics (defects 5 and 6
// of the reference: none is dropped before or after).
func (l *Loop) items(plan Plan, groups [][]sampler.Trajectory, m *StepMetrics) []item {
	var out []item
	for g, group := range groups {
		var scored []sampler.Trajectory
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

func (l *Loop) item(t sampler.Trajectory, e advantage.Episode, a float64) item {
	it := item{advantage: a, rows: t.Rows(e.Tips && !e.OffPolicy), sampled: t.Rows(true), sameContext: !e.OffPolicy}
	if e.OffPolicy && l.Config.Loss.KLSampled > 0 {
		it.anchors = t.Rows(true)
	}
	for _, r := range it.rows {
		it.trained += countTrained(r)
	}
	return it
}

func countTrained(s sampler.Sequence) int {
	n := 0
	for _, t := range s.Trained {
		if t {
			n++
		}
	}
	return n
}

// update trains the items, writes the new version's files and publishes it.
// If the trainer fails it is restored to the last committed version and the
// whole update is made again: nothing is trained twice.
func (l *Loop) update(ctx context.Context, step int64, items []item, m *StepMetrics) (*ledger.Version, error) {
	start, version := time.Now(), int(step)
	export, err := l.trainAsleep(ctx, version, items, m)
	if err != nil {
		return nil, err
	}
	if err := l.warnOfMismatch(ctx, step, m); err != nil {
		return nil, err
	}
	m.Seconds.Train = time.Since(start).Seconds()
	start = time.Now()
	v, err := l.publish(ctx, version, export)
	if err != nil {
		return nil, err
	}
	m.Canary, m.Seconds.Publish = v.Canary, time.Since(start).Seconds()
	return v, nil
}

// trainAsleep trains while the server sleeps, if it can, and wakes it in any
// case.
func (l *Loop) trainAsleep(ctx context.Context, version int, items []item, m *StepMetrics) (export trainerbridge.Exported, err error) {
	if l.Sleeper == nil {
		return l.trainUntilDone(ctx, version, items, m)
	}
	if err := l.Sleeper.Sleep(ctx); err != nil {
		return export, fmt.Errorf("put the server to sleep: %w", err)
	}
	defer func() {
		wakeCtx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), wakeTimeout, errors.New("waking the server took too long"))
		defer cancel()
		if wake := l.Sleeper.Wake(wakeCtx); wake != nil {
			err = errors.Join(err, fmt.Errorf("wake the server: %w", wake))
		}
	}()
	return l.trainUntilDone(ctx, version, items, m)
}

// trainUntilDone trains the step again from the committed version whenever
// the trainer fails.
func (l *Loop) trainUntilDone(ctx context.Context, version int, items []item, m *StepMetrics) (trainerbridge.Exported, error) {
	none, committed := trainerbridge.Exported{}, l.policy.Version
	for {
		export, err := l.train(ctx, version, items, m)
		if err == nil {
			return export, nil
		}
		if ctx.Err() != nil {
			return none, context.Cause(ctx)
		}
		if m.Restarts >= l.Config.Trainer.Restarts || !trainerbridge.Restartable(err) {
			return none, err
		}
		m.Restarts++
		l.Log.Warn().Err(err).Int64("step", m.Step).Int("version", committed).Msg("trainer failed; restoring it and training the step again")
		if err := l.Ledger.Event(ctx, m.Step, "trainer restart", err.Error()); err != nil {
			return none, err
		}
		// Restore waits for what the trainer may still be writing.
		if err := l.Trainer.Restore(ctx, committed); err != nil {
			return none, err
		}
		if err := l.Ledger.DiscardAfter(committed); err != nil {
			return none, err
		}
	}
}

// warnOfMismatch says so where server and trainer disagree, with the likely
// cause, and keeps it in the run's events.
func (l *Loop) warnOfMismatch(ctx context.Context, step int64, m *StepMetrics) error {
	if m.Mismatch.Mean <= l.Config.Loss.MismatchTolerance {
		return nil
	}
	what := fmt.Sprintf("the server's log-probs differ from the trainer's by %.2g nats on average, %.2g at most: %s", m.Mismatch.Mean, m.Mismatch.Max, likelyCause(m.Mismatch))
	l.Log.Warn().Int64("step", step).Bool("corrected", m.Corrected).Msg(what)
	return l.Ledger.Event(ctx, step, "mismatch", what)
}

// train makes the step's optimizer steps and writes checkpoint and adapter.
func (l *Loop) train(ctx context.Context, version int, items []item, m *StepMetrics) (trainerbridge.Exported, error) {
	none := trainerbridge.Exported{}
	items, err := l.correct(ctx, items, m)
	if err != nil {
		return none, err
	}
	loss := trainerbridge.Loss{Name: "empo2", Config: map[string]float64{
		"clip_low_threshold": 1 - l.Config.Loss.ClipLow, "clip_high_threshold": 1 + l.Config.Loss.ClipHigh,
		"dual_clip": l.Config.Loss.DualClip, "logprob_floor": l.Config.Loss.LogprobFloor,
		"kl_estimator": map[string]float64{"exact": 0, "k3": 1}[l.Config.Loss.KLEstimator],
	}}
	o := l.Config.Optimizer
	adam := trainerbridge.Adam{LearningRate: o.LearningRate, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.WeightDecay, GradClipNorm: o.GradClipNorm}
	var tally tally
	for epoch := range l.Config.Loss.Epochs {
		for _, batch := range l.miniBatches(items, version, epoch) {
			rows := l.rows(batch)
			stats, _, err := l.Trainer.ForwardBackward(ctx, rows, loss)
			if err != nil {
				return none, err
			}
			optim, err := l.Trainer.OptimStep(ctx, adam)
			if err != nil {
				return none, err
			}
			tally.add(len(rows), stats, optim)
		}
	}
	tally.fill(m)
	if err := l.Trainer.Save(ctx, version); err != nil {
		return none, err
	}
	return l.Trainer.Export(ctx, version)
}

// miniBatches deals the items, shuffled, into as many mini-batches of at most
// loss.minibatch as it takes, of sizes as equal as can be: no optimizer step
// rests on a few left over.
func (l *Loop) miniBatches(items []item, version, epoch int) [][]item {
	order := rand.New(rand.NewPCG(l.Config.Run.Seed, childSeed(l.Config.Run.Seed, "minibatch", uint64(version), uint64(epoch)))).Perm(len(items))
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
// into the advantages and KL coefficients here: over an episode's tokens and
// then over episodes (the paper), or over all tokens.
func (l *Loop) rows(batch []item) []trainerbridge.Row {
	total := 0
	for _, it := range batch {
		total += it.trained
	}
	kl, klSampled := l.Config.Loss.KL, l.Config.Loss.KLSampled
	var out []trainerbridge.Row
	for _, it := range batch {
		scale := 1 / float64(it.trained*len(batch))
		if l.Config.Loss.Average == "token" {
			scale = 1 / float64(total)
		}
		coefficient := kl
		if it.sameContext {
			coefficient += klSampled
		}
		for i, s := range it.rows {
			r := row(s, it.advantage*scale, coefficient*scale)
			if it.weights != nil {
				r.Weights = it.weights[i]
			}
			out = append(out, r)
		}
		for _, s := range it.anchors {
			out = append(out, anchor(s, klSampled*scale))
		}
	}
	return out
}

// row trains the tokens of s with one advantage.
func row(s sampler.Sequence, advantage, kl float64) trainerbridge.Row {
	r := trainerbridge.Row{Tokens: s.Tokens}
	n := len(s.Tokens)
	r.Weights, r.Logprobs, r.Advantages = make([]float32, n), make([]float32, n), make([]float32, n)
	if kl > 0 {
		r.KL = make([]float32, n)
	}
	for i, trained := range s.Trained {
		if !trained {
			continue
		}
		r.Weights[i], r.Logprobs[i], r.Advantages[i] = 1, s.Logprobs[i], float32(advantage)
		if kl > 0 {
			r.KL[i] = float32(kl)
		}
	}
	return r
}

// anchor carries only the KL at the tokens of s.
func anchor(s sampler.Sequence, kl float64) trainerbridge.Row {
	r := row(s, 0, kl)
	clear(r.Weights)
	clear(r.Logprobs)
	return r
}

// tally gathers the statistics of a step's optimizer steps.
type tally struct {
	rows     int
	passes   []trainerbridge.Stats // of forward_backward
	gradNorm float64               // sum over the optimizer steps
}

func (t *tally) add(rows int, pass, optim trainerbridge.Stats) {
	t.rows += rows
	t.passes = append(t.passes, pass)
	t.gradNorm += optim.GradNorm()
}

func (t *tally) fill(m *StepMetrics) {
	s := trainerbridge.MergeStats(t.passes, nil)
	m.Rows, m.Trained = t.rows, int(s.Tokens())
	m.MaskShare, m.ClipShare = s.MaskedShare(), s.ClippedShare()
	m.Ratio, m.RatioMax = s.MeanRatio(), s.MaxRatio()
	m.ApproxKL, m.Entropy, m.KLBase = s.ApproxKL(), s.Entropy(), s.KLBase()
	m.GradNorm = t.gradNorm / float64(len(t.passes))
}

// publish has a version served and proved, and makes it the policy.
func (l *Loop) publish(ctx context.Context, version int, export trainerbridge.Exported) (*ledger.Version, error) {
	p, err := l.Backend.Publish(ctx, sampler.Adapter{Version: version, Dir: export.Dir, GGUF: export.GGUF, Score: l.score(version)})
	if err != nil {
		return nil, fmt.Errorf("publish version %d: %w", version, err)
	}
	l.policy = p
	v := &ledger.Version{Version: version, Step: int64(version), Dir: export.Dir, SHA256: export.SHA256}
	if l.Canary != nil {
		v.Canary = l.Canary()
	}
	return v, nil
}

// score is the trainer's side of the canary. The version's checkpoint is on
// disk, so that a trainer that died meanwhile is restored to it once.
func (l *Loop) score(version int) func(context.Context, []int32) ([]float32, error) {
	return func(ctx context.Context, tokens []int32) ([]float32, error) {
		out, err := l.Score(ctx, tokens)
		if err == nil || ctx.Err() != nil || !trainerbridge.Restartable(err) {
			return out, err
		}
		l.Log.Warn().Err(err).Int("version", version).Msg("trainer failed during the canary; restoring it")
		if err := l.Trainer.Restore(ctx, version); err != nil {
			return nil, err
		}
		return l.Score(ctx, tokens)
	}
}

// Score returns log π of tokens[1:] under the trainer's adapter as it is, in
// nats.
func (l *Loop) Score(ctx context.Context, tokens []int32) ([]float32, error) {
	out, err := l.Trainer.Forward(ctx, []trainerbridge.Row{{Tokens: tokens}})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// retire stops serving an old version. The base stays: reflection may want it.
func (l *Loop) retire(ctx context.Context, old sampler.Policy) {
	if old.Version == 0 {
		return
	}
	if err := l.Backend.Retire(ctx, old); err != nil {
		l.Log.Warn().Err(err).Int("version", old.Version).Msg("old version not retired")
	}
}
