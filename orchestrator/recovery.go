package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/process"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// recovery restores a trainer that fails and repeats what it was asked. All
// moments of a run share one budget: start, training, export, canary. It is safe
// for concurrent use; calls are made one after the other.
type recovery struct {
	trainer Trainer
	ledger  *ledger.Ledger
	step    func() int64 // that events belong to
	log     zerolog.Logger

	mu     sync.Mutex
	budget process.Budget
}

func newRecovery(l *Loop) *recovery {
	budget := process.NewBudget(l.Config.Trainer.Restarts)
	if l.RestartPause > 0 {
		budget.Pause = l.RestartPause
	}
	return &recovery{trainer: l.Trainer, ledger: l.Ledger, step: l.Step, log: l.Log, budget: budget}
}

// do calls f. If the trainer fails, do restores it to a version and calls f
// again, until f succeeds, fails for a reason that a restart does not remove, or
// the budget is spent. It returns the number of restarts. what names the moment
// in the event of each restart.
func (r *recovery) do(ctx context.Context, what string, version int, f func() error) (restarts int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for err = f(); err != nil; restarts++ {
		if ctx.Err() != nil {
			return restarts, context.Cause(ctx)
		}
		var pass *failedPass
		if errors.As(err, &pass) || !trainerbridge.Restartable(err) {
			return restarts, err
		}
		if spent := r.budget.Next(ctx, err); spent != nil {
			if ctx.Err() != nil {
				return restarts, context.Cause(ctx)
			}
			return restarts, fmt.Errorf("%s: the trainer was %w: %w", what, spent, err)
		}
		if err := r.report(ctx, what, version, err); err != nil {
			return restarts, err
		}
		// Restore waits for what the trainer may still be writing.
		if err = restoreTrainer(ctx, r.ledger, r.trainer, version); err == nil {
			err = f()
		}
	}
	return restarts, nil
}

// report records a restart as an event of the step that runs.
func (r *recovery) report(ctx context.Context, what string, version int, err error) error {
	step := r.step()
	r.log.Warn().Err(err).Int64("step", step).Int("version", version).
		Msg("the trainer failed (" + what + ") and is restored")
	if err := r.ledger.Event(ctx, step, "trainer restart", what+": "+err.Error()); err != nil {
		return err
	}
	return reportKill(ctx, r.ledger, r.log, step, err)
}

// restore brings the trainer to a version.
func (r *recovery) restore(ctx context.Context, what string, version int) error {
	_, err := r.do(ctx, what, version, func() error { return restoreTrainer(ctx, r.ledger, r.trainer, version) })
	return err
}
