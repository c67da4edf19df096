// Package numbered lists the tasks of environments that know a task by a
// number: a seed, or an index into the server's own data.
package numbered

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/empo2/empo2/envs"
)

// A Set is a list of numbers in the order in which they are to be used. In a
// configuration it is a text such as "0-499, 700".
type Set []uint64

// most bounds the tasks of a set; every one of them is kept in memory.
const most = 1 << 20

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
	for part := range strings.SplitSeq(string(text), ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 63)
		last, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 63)
		switch {
		case err1 != nil || err2 != nil || last < first:
			return fmt.Errorf("%q is no range of numbers (hint: such as \"0-499, 700\")", part)
		case last-first >= most || len(all) >= most:
			return fmt.Errorf("%q: more than %d tasks", text, most)
		}
		all = append(all, Range(first, last)...)
	}
	*s = all
	return nil
}

// Splits are the numbers of each split. Eval may be empty: it is Train then.
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

// New checks the splits. Task ids are prefix, a hyphen and the number; what
// else a task says is taken from like.
func New(prefix string, s Splits, like envs.Task) (*Tasks, error) {
	if len(s.Eval) == 0 {
		s.Eval = s.Train
	}
	t := &Tasks{prefix: prefix, task: like, known: make(map[uint64]bool)}
	t.splits = map[envs.Split]Set{envs.Train: slices.Clone(s.Train), envs.Eval: slices.Clone(s.Eval), envs.Test: slices.Clone(s.Test)}
	if len(s.Train) == 0 {
		return nil, errors.New(`no task to train on (hint: train = "0-99")`)
	}
	for split, set := range t.splits {
		seen := make(map[uint64]bool, len(set))
		for _, n := range set {
			if seen[n] {
				return nil, fmt.Errorf("%s names the task %d twice", split, n)
			}
			seen[n], t.known[n] = true, true
		}
		if split != envs.Train {
			continue
		}
		for _, n := range s.Test {
			if seen[n] {
				return nil, fmt.Errorf("the task %d is in train and in test", n)
			}
		}
	}
	return t, nil
}

// Of lists a split.
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

// First is the number of the first task to train on.
func (t *Tasks) First() uint64 { return t.splits[envs.Train][0] }

// Number is the number of a task of any split.
func (t *Tasks) Number(task envs.Task) (uint64, error) {
	digits, ok := strings.CutPrefix(task.ID, t.prefix+"-")
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || !t.known[n] {
		return 0, fmt.Errorf("unknown task %q (hint: tasks are %s-N with N of train, eval or test)", task.ID, t.prefix)
	}
	return n, nil
}
