package orchestrator

import (
	"context"
	"errors"

	"github.com/empo2/empo2/orchestrator/culprit"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// A failedPass is a pass that the trainer refuses: to repeat it would fail again.
type failedPass struct {
	err     error
	keys    []rowKey // of the pass's rows
	lengths []int    // of the rows, in tokens
	// try repeats the pass with some of the rows. Nil: all rows are to blame.
	try attempt
	// replay is try after the step's passes before this one. Nil: there were none.
	replay attempt
}

// An attempt makes a pass with some of its rows. The trainer has the committed
// version before it.
type attempt func(ctx context.Context, rows []int) error

func (f *failedPass) Error() string { return f.err.Error() }
func (f *failedPass) Unwrap() error { return f.err }

// culprits returns the rows because of which a pass fails. It repeats the pass
// with parts of the rows, with the weights of the committed version and then, if
// these do not fail, with those that the step had. If no part fails again, the
// whole pass is left out.
func (s trainStage) culprits(ctx context.Context, committed int, pass *failedPass) ([]rowKey, error) {
	if pass.try == nil {
		return pass.keys, nil
	}
	if keys := pass.tooLong(); len(keys) > 0 {
		return keys, nil
	}
	for _, try := range []attempt{pass.try, pass.replay} {
		if try == nil {
			continue
		}
		found, err := culprit.Find(ctx, len(pass.keys), s.fails(committed, try))
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			return pick(pass.keys, found), nil
		}
	}
	return pass.keys, nil
}

// pick returns the values at some indices.
func pick[T any](values []T, which []int) []T {
	out := make([]T, len(which))
	for i, k := range which {
		out[i] = values[k]
	}
	return out
}

// tooLong returns the rows that do not fit into the trainer's memory, if the
// error says which these are.
func (f *failedPass) tooLong() []rowKey {
	var refused *trainerbridge.RequestError
	if !errors.As(f.err, &refused) || refused.OutOfMemory == nil {
		return nil
	}
	var keys []rowKey
	for i, n := range f.lengths {
		if n >= refused.OutOfMemory.Tokens {
			keys = append(keys, f.keys[i])
		}
	}
	return keys
}

// fails returns a search's attempt. The trainer has the committed version
// afterwards.
func (s trainStage) fails(committed int, try attempt) culprit.Fails {
	return func(ctx context.Context, rows []int) (bool, error) {
		err := try(ctx, rows)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if err != nil && !refusesRows(err) {
			return false, err
		}
		// A gradient that is left over must not join the next one.
		return err != nil, restoreTrainer(ctx, s.ledger, s.trainer, committed)
	}
}
