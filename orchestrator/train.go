package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
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
	// Logprobs are the trainer's of each row's tokens[1:], from before the update of
	// the row's first pass.
	Logprobs map[rowKey][]float32
}

// trainStage trains a batch and writes the new version's files.
type trainStage struct {
	config  config.Config
	trainer Trainer
	sleeper sampler.Sleeper // nil: the server stays awake
	ledger  *ledger.Ledger
	log     zerolog.Logger
	// recovery restores the trainer if it fails.
	recovery *recovery
	progress *progress // nil: not told
}

// run trains the batch, starting from the committed version. The update is nil if
// no episode carries a gradient that can be trained. left are the rows that the
// trainer refused. While the trainer works the server sleeps, if it can; run wakes
// it in any case.
func (s trainStage) run(ctx context.Context, batch Batch, before state) (update *Update, left leftOut, err error) {
	if len(batch.Episodes) == 0 {
		return nil, nil, nil
	}
	begun := time.Now()
	if s.sleeper != nil {
		end := watchdog.Begin(ctx, "server", "sleep", 0)
		err := s.sleeper.Sleep(ctx)
		if end(); err != nil {
			return nil, nil, fmt.Errorf("put the server to sleep: %w", err)
		}
	}
	update, left, err = s.trainUntilDone(ctx, batch, before)
	if s.sleeper != nil {
		err = errors.Join(err, s.wake(ctx))
	}
	if err != nil {
		return nil, nil, err
	}
	if update != nil {
		update.Seconds = time.Since(begun).Seconds()
	}
	return update, left, nil
}

// wake wakes the server, also after ctx has ended.
func (s trainStage) wake(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), wakeTimeout,
		errors.New("the server did not wake in time"))
	defer cancel()
	defer watchdog.Begin(ctx, "server", "wake", wakeTimeout)()
	if err := s.sleeper.Wake(ctx); err != nil {
		return fmt.Errorf("wake the server: %w", err)
	}
	return nil
}

// trainUntilDone trains the batch. If the trainer fails, it is restored to the
// committed version and trains the whole batch again, so that nothing is
// trained twice. Rows that the trainer refuses are left out.
func (s trainStage) trainUntilDone(ctx context.Context, batch Batch, before state) (*Update, leftOut, error) {
	committed, left, restarts, memory := before.policy.Version, leftOut{}, 0, kills(0)
	for first := true; ; first = false {
		var update *Update
		n, err := s.recovery.do(ctx, "train", committed, func() (err error) {
			if !first { // what an attempt before left behind
				if err := s.ledger.DiscardAfter(committed); err != nil {
					return err
				}
			}
			first = false
			update, err = s.train(ctx, batch, left, committed)
			return memory.blame(err)
		})
		restarts += n
		var pass *failedPass
		if !errors.As(err, &pass) {
			err = memory.blame(err) // the budget of restarts is spent
		}
		switch {
		case err == nil && update == nil: // nothing is left: the weights are those of the committed version
			return nil, left, nil
		case err == nil:
			update.Restarts = restarts
			return update, left, nil
		case !errors.As(err, &pass) || ctx.Err() != nil:
			return nil, left, err
		}
		if trainerbridge.Restartable(pass.err) { // the trainer was killed
			restarts++
			if err := s.recovery.report(ctx, "train", committed, pass.err); err != nil {
				return nil, left, err
			}
		}
		n, err = s.recovery.do(ctx, "leave out rows", committed, func() error {
			return s.leaveOut(ctx, batch, before, pass, left)
		})
		if restarts += n; err != nil {
			return nil, left, err
		}
	}
}

// train makes the step's optimizer steps, from a committed version, and writes
// checkpoint and adapter. It returns nil if every row is left out.
func (s trainStage) train(ctx context.Context, batch Batch, left leftOut, version int) (*Update, error) {
	c := s.config
	correction := mismatchCorrection{trainer: s.trainer, tolerance: c.Loss.MismatchTolerance,
		weights:  importance{mode: c.Loss.MismatchMode, low: c.Loss.MismatchFloor, high: c.Loss.MismatchCap},
		versions: versionedTrainer{trainer: s.trainer, ledger: s.ledger, version: version}}
	episodes := left.from(batch.Episodes)
	if len(episodes) == 0 {
		return nil, nil
	}
	corrected, err := correction.run(ctx, episodes)
	if err != nil {
		return nil, err
	}
	if c.Loss.OffPolicyLogprobs == "no_tips" {
		if corrected.episodes, err = correction.withoutTips(ctx, corrected.episodes); err != nil {
			return nil, err
		}
	}
	update := &Update{Version: int(batch.Step), Mismatch: corrected.mismatch, Corrected: corrected.corrected,
		Logprobs: map[rowKey][]float32{}}
	if err := s.optimizerSteps(ctx, batch.Step, corrected.episodes, left, update); err != nil {
		return nil, err
	}
	if err := s.trainer.Save(ctx, update.Version); err != nil {
		return nil, err
	}
	update.Export, err = s.trainer.Export(ctx, update.Version)
	return update, err
}

// optimizerSteps trains the episodes, in mini-batches, and adds the results to the
// update.
func (s trainStage) optimizerSteps(ctx context.Context, step int64, episodes []trainedEpisode, left leftOut,
	update *Update) error {
	c := s.config
	settings := adam(c.Optimizer, learningRate(c.Optimizer, update.Version, c.Run.Steps))
	s.progress.count(0, c.Loss.Epochs*len(episodes), "episodes")
	var passes []trainerbridge.Stats
	var done []miniBatch
	for epoch := range c.Loss.Epochs {
		order := miniBatchOrder(c.Run.Seed, update.Version, epoch)
		for _, mini := range miniBatches(episodes, c.Loss.MiniBatch, order) {
			sent, keys := rows(mini, c.Loss, left)
			if len(sent) == 0 {
				s.progress.add(watchdog.PhaseTraining, len(mini))
				continue
			}
			told := s.progress.part(watchdog.PhaseTraining, len(mini), len(sent))
			stats, norm, logprobs, err := s.optimize(trainerbridge.WithRowsDone(ctx, told), sent, settings)
			if err != nil {
				return s.blame(ctx, err, miniBatch{sent, keys}, done, settings)
			}
			if epoch == 0 && len(logprobs) == len(keys) {
				for i, k := range keys {
					update.Logprobs[k] = logprobs[i]
				}
			}
			if err := s.reportShortage(ctx, step, stats); err != nil {
				return err
			}
			passes, done = append(passes, stats), append(done, miniBatch{sent, keys})
			update.GradNorm, update.Rows = update.GradNorm+norm, update.Rows+len(sent)
			told(len(sent))
		}
	}
	update.Stats = trainerbridge.MergeStats(passes, nil)
	update.GradNorm /= float64(max(1, len(passes)))
	return nil
}

// surrogates are in the order of SURROGATES in empo2_trainer/losses.py.
var surrogates = []string{"clip", "cispo", "sapo", "dppo", "gspo"}

// loss is the trainer's loss with its configuration.
func loss(c config.Loss) trainerbridge.Loss {
	return trainerbridge.Loss{Name: "empo2", Config: map[string]float64{
		"clip_low_threshold": 1 - c.ClipLow, "clip_high_threshold": 1 + c.ClipHigh,
		"dual_clip": c.DualClip, "logprob_floor": c.LogprobFloor,
		"kl_estimator": map[string]float64{"exact": 0, "k3": 1}[c.KLEstimator],
		"surrogate":    float64(slices.Index(surrogates, c.Surrogate)),
	}}
}

func adam(o config.Optimizer, rate float64) trainerbridge.Adam {
	return trainerbridge.Adam{
		LearningRate: rate, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps,
		WeightDecay: o.WeightDecay, GradClipNorm: o.GradClipNorm,
	}
}
