package ors

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/numbered"
)

// maxTasks is the largest number of tasks of a whole split.
const maxTasks = 1 << 20

// A Set is a set of tasks in one of the server's splits. In a configuration it is
// a text: "0-99", or "hard:0-99" in the split hard, or "hard:" for the whole split.
// The zero value is empty.
type Set struct {
	Split   string       // empty: train, validation or test
	Numbers numbered.Set // empty: all
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Set) UnmarshalText(text []byte) error {
	split, numbers, named := strings.Cut(string(text), ":")
	if !named {
		split, numbers = "", split
	}
	s.Split = strings.TrimSpace(split)
	return s.Numbers.UnmarshalText([]byte(numbers))
}

func (s Set) empty() bool { return s.Split == "" && len(s.Numbers) == 0 }

// A place is the position of a task on the server.
type place struct {
	split   string
	index   uint64
	trained bool // a task of [envs.Train]
}

// tasks are the tasks of a family.
type tasks struct {
	splits map[envs.Split][]envs.Task
	places map[string]place // by the task's id
}

func (t tasks) of(split envs.Split) ([]envs.Task, error) {
	all, ok := t.splits[split]
	if !ok {
		return nil, fmt.Errorf("unknown split %q, want %s, %s or %s", split, envs.Train, envs.Eval, envs.Test)
	}
	return slices.Clone(all), nil
}

// readTasks lists the configured tasks and checks that the server has them.
func (f *Family) readTasks(ctx context.Context) (tasks, error) {
	var served []struct{ Name string }
	if err := f.ask(ctx, f.path("/splits"), nil, &served); err != nil {
		return tasks{}, err
	}
	var names []string
	for _, s := range served {
		names = append(names, s.Name)
	}
	t := tasks{splits: map[envs.Split][]envs.Task{envs.Test: nil}, places: map[string]place{}}
	for _, use := range []struct {
		split envs.Split
		set   Set
		name  string // of the split on the server; the SDK's names of the types (types.py)
	}{
		{envs.Train, f.config.Train, "train"},
		{envs.Eval, f.config.Eval, "validation"},
		{envs.Test, f.config.Test, "test"},
	} {
		if use.set.empty() && use.split != envs.Train {
			continue
		}
		if use.set.Split == "" {
			use.set.Split = use.name
		}
		if !slices.Contains(names, use.set.Split) {
			return t, fmt.Errorf("%s: the environment %s has no split %q\n  hint: it has %q; write \"SPLIT:0-99\"",
				use.split, f.env, use.set.Split, names)
		}
		numbers, err := f.numbers(ctx, use.set)
		if err != nil {
			return t, fmt.Errorf("%s: %w", use.split, err)
		}
		if err := t.add(use.split, use.set.Split, numbers, f.actions.instruction); err != nil {
			return t, err
		}
	}
	if f.config.Eval.empty() {
		t.splits[envs.Eval] = t.splits[envs.Train]
	}
	return t, nil
}

// numbers returns the numbers of a set. The server must have all of them.
func (f *Family) numbers(ctx context.Context, s Set) (numbered.Set, error) {
	var answer struct {
		Tasks *uint64 `json:"num_tasks"`
	}
	if err := f.ask(ctx, f.path("/num_tasks"), map[string]any{"split": s.Split}, &answer); err != nil {
		return nil, err
	}
	switch {
	case answer.Tasks == nil:
		return nil, fmt.Errorf("the answer to /num_tasks lacks num_tasks")
	case *answer.Tasks == 0:
		return nil, fmt.Errorf("the split %q has no tasks", s.Split)
	case len(s.Numbers) == 0 && *answer.Tasks > maxTasks:
		return nil, fmt.Errorf("the split %q has %d tasks\n  hint: select some, for example \"%s:0-999\"",
			s.Split, *answer.Tasks, s.Split)
	case len(s.Numbers) == 0:
		return numbered.Range(0, *answer.Tasks-1), nil
	}
	if last := slices.Max(s.Numbers); last >= *answer.Tasks {
		return nil, fmt.Errorf("the split %q has no task %d\n  hint: it has 0 to %d", s.Split, last, *answer.Tasks-1)
	}
	return s.Numbers, nil
}

// add lists tasks. A task must not be listed twice, or be in train and in test.
func (t tasks) add(to envs.Split, split string, numbers numbered.Set, instruction string) error {
	seen := map[string]bool{}
	for _, n := range numbers {
		id := fmt.Sprintf("%s-%d", split, n)
		trained := t.places[id].trained
		switch {
		case seen[id]:
			return fmt.Errorf("%s has the task %s twice", to, id)
		case to == envs.Test && trained:
			return fmt.Errorf("the task %s is in train and in test", id)
		}
		seen[id], t.places[id] = true, place{split, n, trained || to == envs.Train}
		t.splits[to] = append(t.splits[to], envs.Task{ID: id, Scope: id, Seed: n, Instruction: instruction})
	}
	return nil
}
