package envstest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
)

func (s *suite) testTasks(t *testing.T) {
	ids := make(map[envs.Split]map[string]bool)
	for _, split := range []envs.Split{envs.Train, envs.Eval, envs.Test} {
		tasks, err := s.family.Tasks(split)
		if err != nil {
			t.Fatalf("tasks of %s: %v", split, err)
		}
		again, err := s.family.Tasks(split)
		if err != nil {
			t.Fatalf("tasks of %s, again: %v", split, err)
		}
		if diff := cmp.Diff(tasks, again); diff != "" {
			t.Errorf("%s is not stable:\n%s", split, diff)
		}
		ids[split] = make(map[string]bool)
		for _, task := range tasks {
			if task.ID == "" || task.Scope == "" {
				t.Errorf("%s: task %+v lacks its id or scope", split, task)
			}
			if ids[split][task.ID] {
				t.Errorf("%s: id %q names two tasks", split, task.ID)
			}
			ids[split][task.ID] = true
		}
	}
	if len(ids[envs.Train]) == 0 {
		t.Error("the split train is empty")
	}
	for id := range ids[envs.Test] {
		if ids[envs.Train][id] {
			t.Errorf("task %q is in train and in test", id)
		}
	}
}

func (s *suite) testUnknownSplit(t *testing.T) {
	if tasks, err := s.family.Tasks("no-such-split"); err == nil {
		t.Errorf("an unknown split has %d tasks, want an error", len(tasks))
	}
}

func (s *suite) testUnknownTask(t *testing.T) {
	ctx := s.context(t)
	e, err := s.family.Open(ctx, envs.Task{ID: "no/such/task", Scope: "none"})
	if err != nil {
		return
	}
	defer e.Close()
	if _, err := e.Reset(ctx); err == nil {
		t.Error("an unknown task was opened and reset, want an error from one of the two")
	}
}

// testConcurrent finds data races only with the race detector.
func (s *suite) testConcurrent(t *testing.T) {
	const players = 4
	tasks := s.some(t, envs.Train)
	want := make([]transcript, len(tasks))
	for i, task := range tasks {
		want[i] = s.mustPlay(t, task)
	}
	ctx := s.context(t)
	got := make([]transcript, players)
	errs := make([]error, players)
	done := make(chan struct{})
	for p := range players {
		go func() {
			defer func() { done <- struct{}{} }()
			got[p], errs[p] = s.play(ctx, tasks[p%len(tasks)])
		}()
	}
	for range players {
		<-done
	}
	for p := range players {
		if errs[p] != nil {
			t.Errorf("concurrent player %d: %v", p, errs[p])
			continue
		}
		equal(t, "an episode beside others", got[p], want[p%len(tasks)])
	}
}
