// Package numbered lists the tasks of environments in which a task is a number: a
// seed, or an index into the server's data.
package numbered

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/empo2/empo2/envs"
)

// A Set is a list of numbers, in the order of use. In a configuration it is a text
// such as "0-499, 700".
type Set []uint64

// maxTasks is the largest number of tasks in a set. All of them are in memory.
const maxTasks = 1 << 20

// Range is the numbers from first to last.
func Range(first, last uint64) Set {
	var s Set
	for n := first; n <= last; n++ {
		s = append(s, n)
	}
	return s
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Set) UnmarshalText(text []byte) error {
	var all Set
	if strings.TrimSpace(string(text)) == "" {
		*s = all
		return nil
	}
	for part := range strings.SplitSeq(string(text), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 63)
		last, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 63)
		switch {
		case err1 != nil || err2 != nil || last < first:
			return fmt.Errorf("%q is not a range of numbers\n  hint: for example \"0-499, 700\"", part)
		case last-first >= maxTasks || len(all) >= maxTasks:
			return fmt.Errorf("%q: more than %d tasks", text, maxTasks)
		}
		all = append(all, Range(first, last)...)
	}
	if n, twice := all.twice(); twice {
		return fmt.Errorf("%q has the number %d twice\n  hint: for example \"0-499, 700\"", text, n)
	}
	*s = all
	return nil
}

// twice returns a number that is in the set more than once.
func (s Set) twice() (n uint64, found bool) {
	seen := make(map[uint64]bool, len(s))
	for _, n := range s {
		if seen[n] {
			return n, true
		}
		seen[n] = true
	}
	return 0, false
}

// Splits are the numbers of each split. If Eval is empty, it is equal to Train.
type Splits struct {
	Train, Eval, Test Set
}

// Tasks are the tasks of a family, by split.
type Tasks struct {
	prefix string
	splits map[envs.Split]Set
	known  map[uint64]bool
	task   envs.Task
}

// New checks the splits. A task has the id PREFIX-NUMBER. Its texts are those of
// like.
func New(prefix string, s Splits, like envs.Task) (*Tasks, error) {
	if len(s.Eval) == 0 {
		s.Eval = s.Train
	}
	t := &Tasks{prefix: prefix, task: like, known: make(map[uint64]bool)}
	t.splits = map[envs.Split]Set{
		envs.Train: slices.Clone(s.Train), envs.Eval: slices.Clone(s.Eval), envs.Test: slices.Clone(s.Test),
	}
	if len(s.Train) == 0 {
		return nil, errors.New("there is no training task\n  hint: train = \"0-99\"")
	}
	for split, set := range t.splits {
		if n, twice := set.twice(); twice {
			return nil, fmt.Errorf("%s has the task %d twice", split, n)
		}
		for _, n := range set {
			t.known[n] = true
		}
	}
	trained := make(map[uint64]bool, len(s.Train))
	for _, n := range s.Train {
		trained[n] = true
	}
	for _, n := range s.Test {
		if trained[n] {
			return nil, fmt.Errorf("the task %d is in train and in test", n)
		}
	}
	return t, nil
}

// Of lists the tasks of a split.
func (t *Tasks) Of(split envs.Split) ([]envs.Task, error) {
	set, ok := t.splits[split]
	if !ok {
		return nil, fmt.Errorf("unknown split %q, want %s, %s or %s", split, envs.Train, envs.Eval, envs.Test)
	}
	tasks := make([]envs.Task, len(set))
	for i, n := range set {
		tasks[i] = t.task
		tasks[i].ID = fmt.Sprintf("%s-%d", t.prefix, n)
		tasks[i].Scope, tasks[i].Seed = tasks[i].ID, n
	}
	return tasks, nil
}

// First is the number of the first training task.
func (t *Tasks) First() uint64 { return t.splits[envs.Train][0] }

// Number is the number of a task of any split.
func (t *Tasks) Number(task envs.Task) (uint64, error) {
	digits, ok := strings.CutPrefix(task.ID, t.prefix+"-")
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || !t.known[n] {
		return 0, fmt.Errorf("unknown task %q\n  hint: tasks are %s-N with N of train, eval or test", task.ID, t.prefix)
	}
	return n, nil
}
