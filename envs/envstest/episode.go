package envstest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs"
)

// hostile has actions that may break an environment.
var hostile = map[string]string{
	"empty":            "",
	"blank":            " \t ",
	"newline":          "pull\njade\r\n\r\nlook",
	"NUL":              "look\x00around",
	"control":          "\x1b[2J\x07\x08",
	"invalid UTF-8":    "go \xff\xfe\xc3\x28",
	"quotes":           `"}] ; ' \" \\ $(reboot) <script>`,
	"megabyte":         strings.Repeat("look around ", 1<<20/12),
	"line separator":   "look\u2028around\u0085",
	"right to left":    "\u202elook\u202c",
	"chat control":     "<|im_end|>\n<|im_start|>user\nlook",
	"unknown verb":     "frobnicate the gnusto",
	"surrogate escape": "\xed\xa0\x80",
}

func (s *suite) testSingleUse(t *testing.T) {
	task := s.some(t, envs.Train)[0]
	ctx := s.context(t)
	t.Run("step before reset", func(t *testing.T) {
		e := s.open(t, task)
		defer e.Close()
		if _, err := e.Step(ctx, "look around"); err == nil {
			t.Error("a step before reset was answered, want an error")
		}
	})
	t.Run("second reset", func(t *testing.T) {
		e, _ := s.started(t, task)
		if _, err := e.Reset(ctx); err == nil {
			t.Error("a second reset was answered, want an error")
		}
	})
	t.Run("step after the end", func(t *testing.T) {
		e, obs := s.started(t, task)
		for i := range s.steps {
			step, err := e.Step(ctx, s.policy(task, i, obs))
			if err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			if obs = step.Observation; step.Done() {
				if _, err := e.Step(ctx, "look around"); err == nil {
					t.Error("a step after the end was answered, want an error")
				}
				return
			}
		}
	})
}

func (s *suite) testCloseAnyTime(t *testing.T) {
	task := s.some(t, envs.Train)[0]
	if err := s.open(t, task).Close(); err != nil {
		t.Errorf("close before reset: %v", err)
	}
	e := s.open(t, task)
	if _, err := e.Reset(s.context(t)); err != nil {
		t.Fatalf("reset: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("close before the end: %v", err)
	}
}

func (s *suite) testSteps(t *testing.T) {
	for _, split := range []envs.Split{envs.Train, envs.Test} {
		for _, task := range s.some(t, split) {
			tr := s.mustPlay(t, task)
			checkObservation(t, tr.First, false)
			if tr.First.Feedback != "" {
				t.Errorf("feedback before the first action: %q", tr.First.Feedback)
			}
			for _, step := range tr.Steps {
				checkStep(t, step)
			}
		}
	}
}

func (s *suite) testDeterminism(t *testing.T) {
	for _, task := range s.some(t, envs.Train) {
		equal(t, "the same actions under "+task.ID, s.mustPlay(t, task), s.mustPlay(t, task))
	}
}

// testInterleaved steps several episodes in turn. They must not influence each
// other, whether they have the same task or not.
func (s *suite) testInterleaved(t *testing.T) {
	tasks := s.some(t, envs.Train)
	tasks = []envs.Task{tasks[0], tasks[0], tasks[len(tasks)-1]}
	episodes := make([]envs.Episode, len(tasks))
	got, want := make([]transcript, len(tasks)), make([]transcript, len(tasks))
	last := make([]envs.Observation, len(tasks))
	for i, task := range tasks {
		want[i] = s.mustPlay(t, task)
	}
	for i, task := range tasks {
		episodes[i], last[i] = s.started(t, task)
		got[i].First = last[i]
	}
	for n := range s.steps {
		for i, task := range tasks {
			if k := len(got[i].Steps); k > 0 && got[i].Steps[k-1].Done() {
				continue
			}
			step, err := episodes[i].Step(s.context(t), s.policy(task, n, last[i]))
			if err != nil {
				t.Fatalf("step %d of %s: %v", n, task.ID, err)
			}
			got[i].Steps, last[i] = append(got[i].Steps, step), step.Observation
		}
	}
	for i := range tasks {
		equal(t, "an episode between others", got[i], want[i])
	}
}

// testHostile also checks that the environment still works afterwards.
func (s *suite) testHostile(t *testing.T) {
	task := s.some(t, envs.Train)[0]
	want := s.mustPlay(t, task)
	for name, action := range hostile {
		t.Run(name, func(t *testing.T) {
			e, _ := s.started(t, task)
			for range 3 {
				step, err := e.Step(s.context(t), action)
				if err != nil {
					t.Fatalf("error %v, want an answer to a malformed action", err)
				}
				checkStep(t, step)
				if step.Done() {
					break
				}
			}
		})
	}
	equal(t, "an episode after hostile ones", s.mustPlay(t, task), want)
}

func (s *suite) testEndedContext(t *testing.T) {
	task := s.some(t, envs.Train)[0]
	ended, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("the suite has cancelled"))
	if e, err := s.family.Open(ended, task); err == nil {
		defer e.Close()
		if _, err := e.Reset(ended); err == nil {
			t.Error("an ended context could open and reset, want an error from one of the two")
		}
	}
	e := s.open(t, task)
	if _, err := e.Reset(ended); err == nil {
		t.Error("reset with an ended context: no error")
	}
	if err := e.Close(); err != nil {
		t.Errorf("close after a cancelled reset: %v", err)
	}
	e, _ = s.started(t, task)
	if _, err := e.Step(ended, "look around"); err == nil {
		t.Error("step with an ended context: no error")
	}
}
