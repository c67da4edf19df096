package orchestrator

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// A step closes when its quorum is in and every other episode is past its deadline.
func TestAStepClosesWithItsQuorum(t *testing.T) {
	c := config.Rollout{Quorum: 0.5, DeadlineSeconds: 10}
	run := func(f func(s *stragglers, closed *time.Duration)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			begun, closed := time.Now(), time.Duration(-1)
			s := newStragglers(c, 4, 0, func() { closed = time.Since(begun) })
			f(s, &closed)
			s.stop()
		})
	}
	start := func(s *stragglers, n int) { s.start(rollout.EpisodeSpec{Episode: n}) }
	end := func(s *stragglers, n int, stop rollout.StopReason) bool {
		return s.end(rollout.Trajectory{Episode: n, Stop: stop})
	}
	wait := func(seconds time.Duration) { time.Sleep(seconds * time.Second); synctest.Wait() }
	run(func(s *stragglers, closed *time.Duration) { // the last deadline counts
		for n := range 4 {
			start(s, n)
			wait(1)
		}
		end(s, 0, rollout.StopTerminated)
		end(s, 1, rollout.StopTerminated)
		wait(60)
		if *closed != 13*time.Second {
			t.Errorf("closed after %v", *closed)
		}
		if !end(s, 2, rollout.StopFailed) || end(s, 3, rollout.StopTerminated) {
			t.Error("the one that was cancelled is not the one that was")
		}
	})
	run(func(s *stragglers, closed *time.Duration) { // the quorum comes late; failed episodes are not in
		for n := range 4 {
			start(s, n)
		}
		end(s, 0, rollout.StopTerminated)
		end(s, 1, rollout.StopFailed)
		wait(60)
		if *closed >= 0 {
			t.Errorf("closed after %v with 1 of 4 episodes", *closed)
		}
		end(s, 2, rollout.StopTerminated)
		if *closed != 60*time.Second {
			t.Errorf("closed after %v", *closed)
		}
	})
	run(func(s *stragglers, closed *time.Duration) { // one has not started
		for n := range 3 {
			start(s, n)
		}
		end(s, 0, rollout.StopTerminated)
		end(s, 1, rollout.StopTerminated)
		wait(60)
		start(s, 3)
		wait(5)
		start(s, 3) // a retry
		wait(60)
		if *closed != 70*time.Second {
			t.Errorf("closed after %v", *closed)
		}
	})
	if s := newStragglers(config.Rollout{Quorum: 1}, 4, 0, nil); s != nil || s.end(rollout.Trajectory{}) {
		t.Error("a step that waits for all has stragglers")
	}
}

// Episodes that hang do not hold a step. They are recorded as cancelled, and counted. A
// group that is left with one episode has no gradient.
func TestHangingEpisodesAreCancelled(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) {
		c.Run.Steps, c.Eval.Every, c.Rollout.Quorum, c.Rollout.DeadlineSeconds = 1, 0, 0.75, 0.001
		c.Eval.Temperature = 0.5
	}))
	w.backend.BeforeSample = func(ctx context.Context, _ sampler.Policy, r sampler.Request) error {
		hangs := r.Session == "s1-g1-e0" || strings.HasPrefix(r.Session, "s1-g0-") && r.Session != "s1-g0-e3"
		if hangs && r.Temperature == 1 {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	}
	if _, err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := w.steps[0]
	if m.Cancelled != 8 || m.Failed != 0 || m.Stops[rollout.StopCancelled] != 8 || m.Free.N+m.Tips.N != 24 ||
		m.NoGradient == 0 {
		t.Errorf("%+v", m)
	}
	l, done := w.open()
	defer done()
	stored, err := l.Ledger.Untrained(t.Context(), ledger.KindCancelled, 1)
	if err != nil || len(stored) != 8 || stored[0].Stop != string(rollout.StopCancelled) {
		t.Errorf("%d stored, %v", len(stored), err)
	}
	text, err := l.Ledger.LastEvent(t.Context(), eventCancelled)
	if err != nil || !strings.HasPrefix(text, "8 of 32 episodes") {
		t.Errorf("event %q, %v", text, err)
	}
	estimates, err := l.Ledger.Estimates(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range estimates {
		if e.Group == 0 && (e.Advantage != 0 || e.Tokens != 0) {
			t.Errorf("the only episode of a group is trained: %+v", e)
		}
	}
}
