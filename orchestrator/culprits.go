package orchestrator

import (
	"context"
	"errors"
	"slices"

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
	all := make([]int, len(pass.keys))
	for i := range all {
		all[i] = i
	}
	for _, try := range []attempt{pass.try, pass.replay} {
		if try == nil {
			continue
		}
		found, err := culpritSearch{stage: s, committed: committed, try: try}.run(ctx, all)
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

// maxTogether bounds the rows that are left out one by one because rows fail only
// together.
const maxTogether = 8

// A culpritSearch looks for the fewest rows without which a pass does not fail.
type culpritSearch struct {
	stage     trainStage
	committed int // version from which each attempt begins
	try       attempt
}

// run returns those of the rows that fail alone. If rows fail only together, it
// returns some without which the others do not fail.
func (c culpritSearch) run(ctx context.Context, rows []int) ([]int, error) {
	if fails, err := c.fails(ctx, rows); err != nil || !fails {
		return nil, err
	}
	if len(rows) == 1 {
		return rows, nil
	}
	half := len(rows) / 2
	first, err := c.run(ctx, rows[:half])
	if err != nil {
		return nil, err
	}
	second, err := c.run(ctx, rows[half:])
	if err != nil {
		return nil, err
	}
	if found := append(first, second...); len(found) > 0 {
		return found, nil
	}
	return c.together(ctx, rows, half)
}

// together returns rows without which the others do not fail. The first good rows
// do not fail, and all of them do. It adds rows to the good ones until they fail:
// the last one is to blame.
func (c culpritSearch) together(ctx context.Context, rows []int, good int) ([]int, error) {
	var found []int
	for len(found) < maxTogether {
		bad := len(rows)
		for bad-good > 1 {
			middle := (good + bad) / 2
			fails, err := c.fails(ctx, rows[:middle])
			if err != nil {
				return nil, err
			}
			if fails {
				bad = middle
			} else {
				good = middle
			}
		}
		found = append(found, rows[bad-1])
		rows = slices.Concat(rows[:bad-1], rows[bad:])
		if good == len(rows) {
			return found, nil
		}
		if fails, err := c.fails(ctx, rows); err != nil || !fails {
			return found, err
		}
	}
	return append(found, rows[good:]...), nil
}

// fails reports whether the pass fails with some of its rows. The trainer has the
// committed version afterwards.
func (c culpritSearch) fails(ctx context.Context, rows []int) (bool, error) {
	err := c.try(ctx, rows)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil && !refusesRows(err) {
		return false, err
	}
	// A gradient that is left over must not join the next one.
	return err != nil, restoreTrainer(ctx, c.stage.ledger, c.stage.trainer, c.committed)
}
