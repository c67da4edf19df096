package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// wakeTimeout bounds how long a server may take to wake: it loads its weights
// again.
const wakeTimeout = 10 * time.Minute

// Update is a trained version whose checkpoint and adapter are on disk.
type Update struct {
	Version   int
	Export    trainerbridge.Exported
	Stats     trainerbridge.Stats // of all forward_backward requests, merged
	GradNorm  float64             // mean over the optimizer steps
	Rows      int                 // rows sent
	Mismatch  Mismatch
	Corrected bool // the rows carry importance weights
	Restarts  int  // of the trainer
	Seconds   float64
}

// trainStage trains a batch and writes the new version's files.
type trainStage struct {
	config  config.Config
	trainer Trainer
	sleeper sampler.Sleeper // nil: the server stays awake
	ledger  *ledger.Ledger
	log     zerolog.Logger
}

// run trains the batch, starting from the committed version. It returns nil if
// no episode carries a gradient. While the trainer works the server sleeps, if
// it can; run wakes it in any case.
func (s trainStage) run(ctx context.Context, batch Batch, committed int) (update *Update, err error) {
	if len(batch.Episodes) == 0 {
		return nil, nil
	}
	begun := time.Now()
	if s.sleeper != nil {
		if err := s.sleeper.Sleep(ctx); err != nil {
			return nil, fmt.Errorf("put the server to sleep: %w", err)
		}
	}
	update, err = s.trainUntilDone(ctx, batch, committed)
	if s.sleeper != nil {
		err = errors.Join(err, s.wake(ctx))
	}
	if err != nil {
		return nil, err
	}
	update.Seconds = time.Since(begun).Seconds()
	return update, nil
}

// wake wakes the server, also after ctx has ended.
func (s trainStage) wake(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), wakeTimeout,
		errors.New("the server did not wake in time"))
	defer cancel()
	if err := s.sleeper.Wake(ctx); err != nil {
		return fmt.Errorf("wake the server: %w", err)
	}
	return nil
}

// trainUntilDone trains the batch. If the trainer fails, it is restored to the
// committed version and trains the whole batch again, so that nothing is
// trained twice.
func (s trainStage) trainUntilDone(ctx context.Context, batch Batch, committed int) (*Update, error) {
	for restarts := 0; ; restarts++ {
		update, err := s.train(ctx, batch)
		if err == nil {
			update.Restarts = restarts
			return update, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if restarts >= s.config.Trainer.Restarts || !trainerbridge.Restartable(err) {
			return nil, err
		}
		s.log.Warn().Err(err).Int64("step", batch.Step).Int("version", committed).
			Msg("the trainer failed; restoring it and training the step again")
		if err := s.ledger.Event(ctx, batch.Step, "trainer restart", err.Error()); err != nil {
			return nil, err
		}
		if err := s.reportKill(ctx, batch.Step, err); err != nil {
			return nil, err
		}
		// Restore waits for what the trainer may still be writing.
		if err := restoreTrainer(ctx, s.ledger, s.trainer, committed); err != nil {
			return nil, err
		}
		if err := s.ledger.DiscardAfter(committed); err != nil {
			return nil, err
		}
	}
}

// train makes the step's optimizer steps and writes checkpoint and adapter.
func (s trainStage) train(ctx context.Context, batch Batch) (*Update, error) {
	c := s.config
	correction := mismatchCorrection{trainer: s.trainer, tolerance: c.Loss.MismatchTolerance, cap: c.Loss.MismatchCap}
	corrected, err := correction.run(ctx, batch.Episodes)
	if err != nil {
		return nil, err
	}
	update := &Update{Version: int(batch.Step), Mismatch: corrected.mismatch, Corrected: corrected.corrected}
	settings := adam(c.Optimizer, learningRate(c.Optimizer, update.Version, c.Run.Steps))
	var passes []trainerbridge.Stats
	for epoch := range c.Loss.Epochs {
		order := miniBatchOrder(c.Run.Seed, update.Version, epoch)
		for _, mini := range miniBatches(corrected.episodes, c.Loss.MiniBatch, order) {
			sent := rows(mini, c.Loss)
			if len(sent) == 0 {
				continue
			}
			stats, _, err := s.trainer.ForwardBackward(ctx, sent, loss(c.Loss))
			if err != nil {
				return nil, err
			}
			if err := s.reportShortage(ctx, batch.Step, stats); err != nil {
				return nil, err
			}
			optim, err := s.trainer.OptimStep(ctx, settings)
			if err != nil {
				return nil, err
			}
			passes = append(passes, stats)
			update.Rows += len(sent)
			update.GradNorm += optim.GradNorm()
		}
	}
	update.Stats = trainerbridge.MergeStats(passes, seconds(passes))
	update.GradNorm /= float64(max(1, len(passes)))
	if err := s.trainer.Save(ctx, update.Version); err != nil {
		return nil, err
	}
	update.Export, err = s.trainer.Export(ctx, update.Version)
	return update, err
}

// seconds are the times of passes, by which their rates are averaged; nil if the
// trainer does not report them.
func seconds(passes []trainerbridge.Stats) []float64 {
	out := make([]float64, len(passes))
	for i, p := range passes {
		if out[i] = p.Seconds(); out[i] <= 0 {
			return nil
		}
	}
	return out
}

// loss is the trainer's loss with its configuration.
func loss(c config.Loss) trainerbridge.Loss {
	return trainerbridge.Loss{Name: "empo2", Config: map[string]float64{
		"clip_low_threshold": 1 - c.ClipLow, "clip_high_threshold": 1 + c.ClipHigh,
		"dual_clip": c.DualClip, "logprob_floor": c.LogprobFloor,
		"kl_estimator": map[string]float64{"exact": 0, "k3": 1}[c.KLEstimator],
	}}
}

func adam(o config.Optimizer, rate float64) trainerbridge.Adam {
	return trainerbridge.Adam{
		LearningRate: rate, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps,
		WeightDecay: o.WeightDecay, GradClipNorm: o.GradClipNorm,
	}
}
