package warmstart

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/culprit"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// leftOutFile lists the examples that are left out.
const leftOutFile = "leftout.json"

// leftOut are the examples that the trainer cannot train: their gradient is not
// finite, they do not fit into memory, or they are too long. It has the step from
// which each is left out, by its line of the data.
type leftOut map[int]int

func (l leftOut) from(examples []Example, step int) []Example {
	var out []Example
	for _, e := range examples {
		if from, ok := l[e.Line]; !ok || step < from {
			out = append(out, e)
		}
	}
	return out
}

// errNotFinite is the error of a pass whose loss or gradient is not finite.
var errNotFinite = errors.New("the loss or the gradient is not finite")

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// A refusedBatch is the error of a step whose batch the trainer refuses.
type refusedBatch struct {
	step  int
	batch []Example
	err   error
}

func (r *refusedBatch) Error() string { return fmt.Sprintf("step %d: %v", r.step, r.err) }
func (r *refusedBatch) Unwrap() error { return r.err }

// leaveOut finds the examples because of which the trainer refuses a batch. The
// trainer has the weights from before the step afterwards. If the newest checkpoint
// is older, leaveOut first trains up to the step again and saves there.
func (t *Training) leaveOut(ctx context.Context, r *refusedBatch) error {
	if t.incomplete() >= t.MaxIncomplete {
		// The cause is no part of the error: a restart would not help.
		return fmt.Errorf("the trainer refuses conversations of step %d, as of the %d steps before: %v\n"+
			"  hint: the step is not trained; continue with another --learning-rate or optimizer.grad_clip_norm, "+
			"or with a higher trainer.max_incomplete_steps", r.step, t.MaxIncomplete, withoutHint(r.err))
	}
	if t.saved < r.step-1 {
		t.saveAt = r.step - 1
		return t.restore(ctx)
	}
	bad := tooLong(r)
	if len(bad) == 0 {
		if err := t.restore(ctx); err != nil {
			return err
		}
		found, err := culprit.Find(ctx, len(r.batch), t.fails(r))
		if err != nil {
			return fmt.Errorf("look for the conversations that the trainer refuses (%s): %w", withoutHint(r.err), err)
		}
		bad = pick(r.batch, found)
	}
	if len(bad) == 0 && t.repeated != r.step { // it does not fail again
		t.repeated = r.step
		return nil
	}
	if len(bad) == 0 {
		bad = r.batch
	}
	if err := t.record(r.step, bad, r.err); err != nil {
		return err
	}
	return t.restore(ctx)
}

// fails repeats a step with some examples of its batch. The trainer has the weights
// from before the step afterwards.
func (t *Training) fails(r *refusedBatch) culprit.Fails {
	return func(ctx context.Context, which []int) (bool, error) {
		_, _, err := t.pass(ctx, r.step, pick(r.batch, which))
		var refused *refusedBatch
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case err != nil && !errors.As(err, &refused):
			return false, err
		}
		return err != nil, t.Trainer.Restore(ctx, t.saved)
	}
}

// tooLong returns the examples that do not fit into the trainer's memory, if the
// error says which these are.
func tooLong(r *refusedBatch) (bad []Example) {
	var refused *trainerbridge.RequestError
	if !errors.As(r.err, &refused) || refused.OutOfMemory == nil {
		return nil
	}
	for _, e := range r.batch {
		if e.Longest >= refused.OutOfMemory.Tokens {
			bad = append(bad, e)
		}
	}
	return bad
}

func pick(examples []Example, which []int) []Example {
	var out []Example
	for _, i := range which {
		out = append(out, examples[i])
	}
	return out
}

// afterKill leaves out the longest examples of the next step if the system has
// killed the trainer in it for lack of memory before: first one, then two more, and
// so on. After the first kill the trainer uses half the memory for a micro-batch.
func (t *Training) afterKill(failure error) error {
	var exit *trainerbridge.ExitError
	if !errors.As(failure, &exit) || !exit.OutOfMemory {
		return nil
	}
	step := t.done() + 1
	if t.killedAt != step {
		t.killedAt, t.kills = step, 0
	}
	if t.kills++; t.kills < 2 {
		return nil
	}
	batch := t.batch(step)
	slices.SortStableFunc(batch, func(a, b Example) int { return cmp.Compare(b.Longest, a.Longest) })
	return t.record(step, batch[:min(len(batch), 1<<(t.kills-2))], failure)
}

// incomplete counts the newest steps in a row in which examples were left out.
func (t *Training) incomplete() int {
	n := 0
	for i := len(t.history) - 1; i >= 0 && t.history[i].LeftOut > 0; i-- {
		n++
	}
	return n
}

// record leaves examples out from a step on, and stores and reports it.
func (t *Training) record(step int, bad []Example, why error) error {
	if len(bad) == 0 {
		return nil
	}
	lines := make([]int, len(bad))
	for i, e := range bad {
		lines[i] = e.Line
		t.left[e.Line] = step
	}
	text, err := json.Marshal(t.left)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(t.Dir, leftOutFile), text); err != nil {
		return err
	}
	t.Log.Warn().Int("step", step).Ints("lines", lines).
		Msgf("conversations are left out from this step on: %s", withoutHint(why))
	return nil
}

// readLeftOut reads what an earlier process left out. If the file is damaged, the
// trainer's refusals fill it again.
func (t *Training) readLeftOut() {
	t.left = leftOut{}
	text, err := os.ReadFile(filepath.Join(t.Dir, leftOutFile))
	if err == nil && json.Unmarshal(text, &t.left) != nil {
		t.left = leftOut{}
		t.Log.Warn().Str("file", filepath.Join(t.Dir, leftOutFile)).Msg("the list of left out conversations is damaged")
	}
}

// linesLeftOut are the lines of the data that were left out, in order.
func (t *Training) linesLeftOut() []int {
	lines := []int{}
	for line := range t.left {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// withoutHint is the text of an error before its hint, because another hint
// follows.
func withoutHint(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n  hint: ")
	return text
}
