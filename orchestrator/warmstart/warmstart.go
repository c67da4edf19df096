// Package warmstart trains version 0 of a run on demonstrations: supervised
// learning with the run's own trainer, before reinforcement learning begins. A
// small model needs it if it never acts in the right form by chance.
//
// Start with [Training]. [Tokenizer] makes its examples from demonstrations. The
// result is a LoRA adapter. The caller merges it into the base, so that every
// other part of a run (server, trainer, KL anchor, reflection with the adapter
// off) sees the warm-started model as the base.
//
// The training is deterministic: batches follow from the seed. Checkpoints are
// written to a folder, and a training that was killed continues from the newest.
package warmstart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// Config sets the length and the optimizer of a training.
type Config struct {
	Steps        int
	Batch        int // conversations of a step
	LearningRate float64
	Schedule     string // Cosine, Linear or Constant
	WarmupSteps  int
	Adam         trainerbridge.Adam // its learning rate is not used
	Holdout      float64            // share of the demonstrations that is not trained on
	Seed         uint64
}

// Trainer is what a training needs of a trainer. *trainerbridge.Local implements
// it. The loop's Trainer describes the methods.
type Trainer interface {
	ForwardBackward(ctx context.Context, rows []trainerbridge.Row, loss trainerbridge.Loss) (
		trainerbridge.Stats, [][]float32, error)
	OptimStep(ctx context.Context, adam trainerbridge.Adam) (trainerbridge.Stats, error)
	Forward(ctx context.Context, rows []trainerbridge.Row) ([][]float32, error)
	Save(ctx context.Context, version int) error
	Export(ctx context.Context, version int) (trainerbridge.Exported, error)
	Restore(ctx context.Context, version int) error
}

var _ Trainer = (*trainerbridge.Local)(nil)

// Step describes a finished step.
type Step struct {
	Step         int     `json:"step"`
	Loss         float64 `json:"loss"` // mean cross-entropy of the batch before the update, in nats per token
	HeldOut      float64 `json:"held_out,omitempty"`
	LearningRate float64 `json:"learning_rate"`
	GradNorm     float64 `json:"grad_norm"`
	Tokens       int     `json:"tokens"`  // of the batch, prompts included
	Trained      int     `json:"trained"` // of these, counted by the loss
	Seconds      float64 `json:"seconds"` // of the update; the held-out loss and checkpoints are not included
}

// Training trains an adapter on examples. Its fields must not change after Run was
// called.
type Training struct {
	Config   Config
	Trainer  Trainer
	Examples []Example
	// Dir is the trainer's folder. It has the checkpoints and the history.
	Dir string
	// SaveEvery is the time between two checkpoints; 0: one after every step.
	SaveEvery time.Duration
	// Restarts is how often a failed trainer is restarted between two checkpoints.
	Restarts int
	OnStep   func(Step) // nil: nothing is reported
	Log      zerolog.Logger

	train, held []Example
	history     []Step // since the beginning, also of earlier processes
	saved       int    // step of the newest checkpoint
	savedAt     time.Time
	restarts    int // since the newest checkpoint
}

// Result describes a finished training.
type Result struct {
	Adapter trainerbridge.Exported
	// History has every step. Step 0 is the held-out loss before the training.
	History []Step
	Train   int // examples that were trained on
	Held    int // examples that were held out
}

// evaluations is about how often the held-out loss is computed.
const evaluations = 10

// Run trains to the last step, from the newest checkpoint in Dir if there is one,
// and exports the adapter.
func (t *Training) Run(ctx context.Context) (Result, error) {
	t.train, t.held = split(t.Examples, t.Config.Holdout, t.Config.Seed)
	if len(t.train) == 0 {
		return Result{}, errors.New("there is no demonstration to train on")
	}
	if err := t.resume(ctx); err != nil {
		return Result{}, err
	}
	for t.done() < t.Config.Steps {
		err := t.next(ctx)
		if err == nil {
			continue
		}
		if err := t.recover(ctx, err); err != nil {
			return Result{}, err
		}
	}
	adapter, err := t.Trainer.Export(ctx, t.Config.Steps)
	if err != nil {
		return Result{}, fmt.Errorf("export the adapter: %w", err)
	}
	return Result{Adapter: adapter, History: t.history, Train: len(t.train), Held: len(t.held)}, nil
}

// done is the number of steps that the trainer's adapter has.
func (t *Training) done() int {
	if len(t.history) == 0 {
		return 0
	}
	return t.history[len(t.history)-1].Step
}

// next trains one step and writes a checkpoint if it is time.
func (t *Training) next(ctx context.Context) error {
	if len(t.history) == 0 {
		if err := t.begin(ctx); err != nil {
			return err
		}
	}
	step, err := t.update(ctx, t.done()+1)
	if err != nil {
		return err
	}
	last := step.Step == t.Config.Steps
	if every := max(1, t.Config.Steps/evaluations); last || step.Step%every == 0 {
		if step.HeldOut, err = t.heldOut(ctx); err != nil {
			return err
		}
	}
	t.history = append(t.history, step)
	if last || time.Since(t.savedAt) >= t.SaveEvery {
		if err := t.save(ctx); err != nil {
			return err
		}
	}
	if t.OnStep != nil {
		t.OnStep(step)
	}
	return nil
}

// begin computes the held-out loss before the first step.
func (t *Training) begin(ctx context.Context) error {
	before, err := t.heldOut(ctx)
	if err != nil {
		return err
	}
	t.history = []Step{{HeldOut: before}}
	if t.OnStep != nil && len(t.held) > 0 {
		t.OnStep(t.history[0])
	}
	return nil
}

// update makes one optimizer step.
func (t *Training) update(ctx context.Context, number int) (Step, error) {
	begun := time.Now()
	step := Step{Step: number, LearningRate: t.Config.learningRate(number)}
	var batch []Example
	for _, i := range t.Config.batch(number, len(t.train)) {
		batch = append(batch, t.train[i])
		step.Tokens += t.train[i].Tokens
		step.Trained += t.train[i].Trained
	}
	stats, _, err := t.Trainer.ForwardBackward(ctx, rows(batch), trainerbridge.Loss{Name: "cross_entropy"})
	if err != nil {
		return step, err
	}
	adam := t.Config.Adam
	adam.LearningRate = step.LearningRate
	optim, err := t.Trainer.OptimStep(ctx, adam)
	if err != nil {
		return step, err
	}
	step.Loss, step.GradNorm, step.Seconds = stats.Loss(), optim.GradNorm(), time.Since(begun).Seconds()
	return step, nil
}

// heldOut is the mean cross-entropy of the held-out examples; 0 if there are none.
// It sends them in batches, because the time limit of a call holds for a batch.
func (t *Training) heldOut(ctx context.Context) (float64, error) {
	if len(t.held) == 0 {
		return 0, nil
	}
	sum, n := 0.0, 0
	for batch := range slices.Chunk(t.held, t.Config.Batch) {
		sent := rows(batch)
		logprobs, err := t.Trainer.Forward(ctx, sent)
		if err != nil {
			return 0, fmt.Errorf("held-out loss: %w", err)
		}
		loss, trained := sumLoss(sent, logprobs)
		sum, n = sum+loss, n+trained
	}
	return sum / float64(n), nil
}

// recover restores a trainer that failed to the newest checkpoint. It returns the
// failure if that cannot help.
func (t *Training) recover(ctx context.Context, failure error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if t.restarts >= t.Restarts || !trainerbridge.Restartable(failure) {
		return failure
	}
	t.restarts++
	t.Log.Warn().Err(failure).Int("step", t.saved).Msg("the trainer failed; continuing from the newest checkpoint")
	if err := t.Trainer.Restore(ctx, t.saved); err != nil {
		return err
	}
	return t.load(t.saved)
}
