// Package envstest is the conformance suite of [envs.Family]. Call [Run] in a test
// of every environment.
package envstest

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/empo2/empo2/envs"
)

// A Policy chooses the actions of the suite. It must be a pure function of its
// arguments and safe for concurrent use.
type Policy func(t envs.Task, step int, o envs.Observation) string

// An Option changes how [Run] drives a family.
type Option func(*suite)

// WithPolicy replaces the default policy, which uses words of the state, by one
// that makes more progress in the environment under test.
func WithPolicy(p Policy) Option { return func(s *suite) { s.policy = p } }

// WithTasks limits the tasks of a split that the suite opens (default 4).
func WithTasks(n int) Option { return func(s *suite) { s.tasks = n } }

// WithSteps limits the steps of an episode (default 20).
func WithSteps(n int) Option { return func(s *suite) { s.steps = n } }

// WithTimeout is the deadline of every call of the environment (default 1 minute).
// Its only purpose is that a hanging environment does not hang the tests.
func WithTimeout(d time.Duration) Option { return func(s *suite) { s.timeout = d } }

type suite struct {
	family  envs.Family
	policy  Policy
	tasks   int
	steps   int
	timeout time.Duration
}

// Run checks the contracts of [envs.Family] and [envs.Episode]. It opens one family
// with open, closes it, and fails if goroutines are left. It opens four episodes
// or fewer at the same time.
func Run(t *testing.T, open func(t *testing.T) envs.Family, options ...Option) {
	before := goleak.IgnoreCurrent()
	s := &suite{family: open(t), policy: wordPolicy, tasks: 4, steps: 20, timeout: time.Minute}
	for _, option := range options {
		option(s)
	}
	t.Run("name", func(t *testing.T) {
		first, second := s.family.Name(), s.family.Name()
		if first == "" || first != second {
			t.Errorf("names %q and %q, want a stable one", first, second)
		}
	})
	t.Run("tasks", s.testTasks)
	t.Run("unknown split", s.testUnknownSplit)
	t.Run("unknown task", s.testUnknownTask)
	t.Run("single-use", s.testSingleUse)
	t.Run("close at any time", s.testCloseAnyTime)
	t.Run("steps", s.testSteps)
	t.Run("determinism", s.testDeterminism)
	t.Run("interleaved", s.testInterleaved)
	t.Run("concurrent", s.testConcurrent)
	t.Run("hostile actions", s.testHostile)
	t.Run("ended context", s.testEndedContext)
	if err := s.family.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	// After a client has closed a connection, the server of net/http keeps a
	// goroutine for half a second.
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// wordPolicy chooses a word of the state.
func wordPolicy(_ envs.Task, step int, o envs.Observation) string {
	words := strings.FieldsFunc(o.State, func(r rune) bool { return strings.ContainsRune(" \n\t.,:;", r) })
	if len(words) == 0 {
		return "look around"
	}
	return "pull " + words[(7*step+1)%len(words)]
}

func (s *suite) context(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), s.timeout,
		fmt.Errorf("the environment did not answer within %s", s.timeout))
	t.Cleanup(cancel)
	return ctx
}

// some returns the first tasks of a split.
func (s *suite) some(t *testing.T, split envs.Split) []envs.Task {
	t.Helper()
	tasks, err := s.family.Tasks(split)
	if err != nil {
		t.Fatalf("tasks of %s: %v", split, err)
	}
	return tasks[:min(len(tasks), s.tasks)]
}

func (s *suite) open(t *testing.T, task envs.Task) envs.Episode {
	t.Helper()
	e, err := s.family.Open(s.context(t), task)
	if err != nil {
		t.Fatalf("open %s: %v", task.ID, err)
	}
	return e
}

// started opens and resets an episode that is closed at the end of the test.
func (s *suite) started(t *testing.T, task envs.Task) (envs.Episode, envs.Observation) {
	t.Helper()
	e := s.open(t, task)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close episode of %s: %v", task.ID, err)
		}
	})
	obs, err := e.Reset(s.context(t))
	if err != nil {
		t.Fatalf("reset %s: %v", task.ID, err)
	}
	return e, obs
}

// A transcript has the first observation and the steps of an episode.
type transcript struct {
	First envs.Observation
	Steps []envs.Step
}

// play plays a whole episode. It may run on any goroutine.
func (s *suite) play(ctx context.Context, task envs.Task) (tr transcript, err error) {
	e, err := s.family.Open(ctx, task)
	if err != nil {
		return tr, fmt.Errorf("open %s: %w", task.ID, err)
	}
	defer func() {
		if cerr := e.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close episode of %s: %w", task.ID, cerr)
		}
	}()
	obs, err := e.Reset(ctx)
	if err != nil {
		return tr, fmt.Errorf("reset %s: %w", task.ID, err)
	}
	tr.First = obs
	for i := range s.steps {
		step, err := e.Step(ctx, s.policy(task, i, obs))
		if err != nil {
			return tr, fmt.Errorf("step %d of %s: %w", i, task.ID, err)
		}
		tr.Steps = append(tr.Steps, step)
		if step.Done() {
			break
		}
		obs = step.Observation
	}
	return tr, nil
}

func (s *suite) mustPlay(t *testing.T, task envs.Task) transcript {
	t.Helper()
	tr, err := s.play(s.context(t), task)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// checkObservation checks an observation. last is true after the last step.
func checkObservation(t *testing.T, o envs.Observation, last bool) {
	t.Helper()
	if !utf8.ValidString(o.State) || !utf8.ValidString(o.Feedback) {
		t.Errorf("observation is not valid UTF-8: %q", o)
	}
	if last != (o.State == "") {
		t.Errorf("state = %q and done = %v, want an empty state after the last step only", o.State, last)
	}
}

func checkStep(t *testing.T, step envs.Step) {
	t.Helper()
	checkObservation(t, step.Observation, step.Done())
	for name, v := range map[string]float64{"reward": step.Reward, "score": step.Score} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			t.Errorf("%s = %v", name, v)
		}
	}
}

func equal(t *testing.T, what string, got, want transcript) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
