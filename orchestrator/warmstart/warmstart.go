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
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
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
	// LeftOut are the conversations of the batch that the trainer refused in this step.
	LeftOut int `json:"left_out,omitempty"`

	Seconds float64 `json:"seconds"` // of the update; the held-out loss and checkpoints are not included
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
	// Budget limits the restarts of a failed trainer.
	Budget process.Budget
	// MaxIncomplete is how many steps in a row may leave conversations out.
	MaxIncomplete int
	OnStep        func(Step) // nil: nothing is reported
	Log           zerolog.Logger

	train, held []Example
	left        leftOut
	history     []Step // since the beginning, also of earlier processes
	saved       int    // step of the newest checkpoint
	savedAt     time.Time
	saveAt      int // step after which a checkpoint is written in any case
	repeated    int // step that was refused and is tried again
	killedAt    int // step in which the trainer was killed for lack of memory
	kills       int // in this step
}

// Result describes a finished training.
type Result struct {
	Adapter trainerbridge.Exported
	// History has every step. Step 0 is the held-out loss before the training.
	History []Step
	Train   int   // examples that were trained on
	Held    int   // examples that were held out
	LeftOut []int // lines of the data that the trainer refused
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
	t.readLeftOut()
	adapter, err := trainerbridge.Exported{}, t.restore(ctx)
	if err == nil {
		adapter, err = t.steps(ctx)
	}
	for err != nil {
		if err = t.recover(ctx, err); err != nil {
			return Result{}, err
		}
		adapter, err = t.steps(ctx)
	}
	return Result{Adapter: adapter, History: t.history, Train: len(t.train), Held: len(t.held),
		LeftOut: t.linesLeftOut()}, nil
}

// steps trains to the last step and exports the adapter.
func (t *Training) steps(ctx context.Context) (trainerbridge.Exported, error) {
	for t.done() < t.Config.Steps {
		if err := t.next(ctx); err != nil {
			return trainerbridge.Exported{}, err
		}
	}
	adapter, err := t.Trainer.Export(ctx, t.Config.Steps)
	if err != nil {
		err = fmt.Errorf("export the adapter: %w", err)
	}
	return adapter, err
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
		if step.HeldOut, err = t.heldOut(ctx, step.Step); err != nil {
			return err
		}
	}
	t.history = append(t.history, step)
	if last || step.Step == t.saveAt || time.Since(t.savedAt) >= t.SaveEvery {
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
	before, err := t.heldOut(ctx, 0)
	if err != nil {
		return err
	}
	t.history = []Step{{HeldOut: before}}
	if t.OnStep != nil && len(t.held) > 0 {
		t.OnStep(t.history[0])
	}
	return nil
}

// batch are the examples of a step, without those that are left out.
func (t *Training) batch(step int) []Example {
	return t.left.from(pick(t.train, t.Config.batch(step, len(t.train))), step)
}

// update makes one optimizer step.
func (t *Training) update(ctx context.Context, number int) (step Step, err error) {
	begun := time.Now()
	step = Step{Step: number, LearningRate: t.Config.learningRate(number)}
	for _, e := range pick(t.train, t.Config.batch(number, len(t.train))) {
		if t.left[e.Line] == number {
			step.LeftOut++
		}
	}
	batch := t.batch(number)
	for _, e := range batch {
		step.Tokens += e.Tokens
		step.Trained += e.Trained
	}
	if len(batch) > 0 {
		step.Loss, step.GradNorm, err = t.pass(ctx, number, batch)
	}
	step.Seconds = time.Since(begun).Seconds()
	return step, err
}

// pass updates the weights with examples of a step. If the trainer refuses the
// examples, the error is a [*refusedBatch].
func (t *Training) pass(ctx context.Context, number int, batch []Example) (loss, norm float64, err error) {
	refuse := func(err error) (float64, float64, error) {
		return 0, 0, &refusedBatch{step: number, batch: batch, err: err}
	}
	stats, _, err := t.Trainer.ForwardBackward(ctx, rows(batch), trainerbridge.Loss{Name: "cross_entropy"})
	switch {
	case err != nil && trainerbridge.RefusesRows(err) && ctx.Err() == nil:
		return refuse(err)
	case err != nil:
		return 0, 0, err
	case !finite(stats.Loss()):
		return refuse(errNotFinite)
	}
	adam := t.Config.Adam
	adam.LearningRate = t.Config.learningRate(number)
	optim, err := t.Trainer.OptimStep(ctx, adam)
	var refused *trainerbridge.RequestError
	switch {
	case errors.As(err, &refused) && trainerbridge.RefusesRows(err):
		return refuse(err)
	case err == nil && !finite(optim.GradNorm()):
		return refuse(errNotFinite)
	}
	return stats.Loss(), optim.GradNorm(), err
}

// recover makes it possible to go on after a failure: it leaves out the examples
// that the trainer refuses, or restores a trainer that failed to the newest
// checkpoint. It returns the failure if that cannot help.
func (t *Training) recover(ctx context.Context, failure error) error {
	for failure != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var refused *refusedBatch
		if errors.As(failure, &refused) {
			failure = t.leaveOut(ctx, refused)
			continue
		}
		if !trainerbridge.Restartable(failure) {
			return failure
		}
		if spent := t.Budget.Next(ctx, failure); spent != nil {
			return fmt.Errorf("the trainer was %w: %w", spent, failure)
		}
		t.Log.Warn().Err(failure).Int("step", t.saved).Msg("the trainer failed; continuing from the newest checkpoint")
		if err := t.afterKill(failure); err != nil {
			return err
		}
		failure = t.restore(ctx)
	}
	return nil
}
