package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// wakeTimeout bounds how long a server may take to wake: it reads its weights
// back.
const wakeTimeout = 10 * time.Minute

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
	if !l.off(m.Mismatch) {
		l.warned = false
		return nil
	}
	what := fmt.Sprintf("the server's log-probs differ from the trainer's by %.2g nats on average, %.2g at most (KL %.2g, effective sample size %.0f %%): %s",
		m.Mismatch.Mean, m.Mismatch.Max, m.Mismatch.KL, 100*m.Mismatch.ESS, likelyCause(m.Mismatch))
	if !l.warned { // the step's line shows that it goes on
		l.Log.Warn().Int64("step", step).Bool("corrected", m.Corrected).Msg(what)
	}
	l.warned = true
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
	adam := trainerbridge.Adam{
		LearningRate: learningRate(o, version, l.Config.Run.Steps), Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps,
		WeightDecay: o.WeightDecay, GradClipNorm: o.GradClipNorm,
	}
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
