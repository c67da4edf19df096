package orchestrator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	tried := map[int]func(rollout.Trajectory){}
	start := func(s *stragglers, n int) {
		_, tried[n] = s.start(context.Background(), rollout.EpisodeSpec{Episode: n})
	}
	end := func(s *stragglers, n int, stop rollout.StopReason) {
		tried[n](rollout.Trajectory{Episode: n, Stop: stop})
		s.end(rollout.Trajectory{Episode: n, Stop: stop})
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
		tried[3](rollout.Trajectory{Episode: 3, Stop: rollout.StopFailed})
		start(s, 3) // a retry
		wait(60)
		if *closed != 70*time.Second {
			t.Errorf("closed after %v", *closed)
		}
	})
	if s := newStragglers(config.Rollout{Quorum: 1}, 4, 0, nil); s != nil {
		t.Error("a step that waits for all has stragglers")
	}
}

// A quorum is the smallest number of episodes that is not below the share.
func TestAQuorumIsNotRoundedUpTwice(t *testing.T) {
	f := func(share float64, episodes, want int) {
		t.Helper()
		if got := newStragglers(config.Rollout{Quorum: share}, episodes, 0, nil).quorum; got != want {
			t.Errorf("%g of %d episodes: %d, want %d", share, episodes, got, want)
		}
	}
	f(0.55, 100, 55)
	f(0.56, 100, 56)
	f(0.55, 20, 11)
	f(0.55, 21, 12)
	f(0.9, 128, 116)
	f(0.7, 10, 7)
	f(0.5, 3, 2)
}

// atGate is a step of 4 episodes with a quorum of 3 and a deadline of 10 s, and the
// contexts of those that have started.
type atGate struct {
	*stragglers
	t    *testing.T
	ctx  map[int]context.Context
	left map[int]func(rollout.Trajectory)
	shut atomic.Bool // the step
}

func (g *atGate) start(n int) {
	g.ctx[n], g.left[n] = g.stragglers.start(g.t.Context(), rollout.EpisodeSpec{Episode: n})
}

func (g *atGate) end(n int, stop rollout.StopReason) {
	g.left[n](rollout.Trajectory{Episode: n, Stop: stop})
	g.stragglers.end(rollout.Trajectory{Episode: n, Stop: stop})
}

func (g *atGate) retry(n int) {
	g.left[n](rollout.Trajectory{Episode: n, Stop: rollout.StopFailed})
	g.wait(rollout.EpisodeSpec{Episode: n})
}

// cancelled lists the episodes that are not waited for.
func (g *atGate) cancelled() []int {
	synctest.Wait()
	var out []int
	for n := range 4 {
		if ctx := g.ctx[n]; ctx != nil && errors.Is(context.Cause(ctx), rollout.ErrNotAwaited) {
			out = append(out, n)
		}
	}
	return out
}

func withGate(t *testing.T, f func(t *testing.T, g *atGate)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &atGate{t: t, ctx: map[int]context.Context{}, left: map[int]func(rollout.Trajectory){}}
		g.stragglers = newStragglers(config.Rollout{Quorum: 0.75, DeadlineSeconds: 10}, 4, 0, func() { g.shut.Store(true) })
		f(t, g)
		g.stop()
	})
}

// A closed gate does not wait for an episode that is past its deadline if those that have
// not started can make the quorum. They start when the gate is open again.
func TestAClosedGateDoesNotWaitForStragglers(t *testing.T) {
	withGate(t, func(t *testing.T, g *atGate) {
		g.start(0)
		g.start(1)
		g.end(1, rollout.StopTerminated)
		time.Sleep(time.Minute)
		if got := g.cancelled(); got != nil {
			t.Errorf("%v are cancelled, the gate is open and 2 have not started", got)
		}
		g.gate(true)
		if got := g.cancelled(); !slices.Equal(got, []int{0}) || g.shut.Load() {
			t.Errorf("%v are cancelled, the step is closed: %v", got, g.shut.Load())
		}
		g.end(0, rollout.StopCancelled)
		g.gate(false)
		g.start(2)
		g.start(3)
		time.Sleep(time.Minute)
		if got := g.cancelled(); !slices.Equal(got, []int{0}) || g.shut.Load() {
			t.Errorf("%v are cancelled, which leaves no quorum", got)
		}
	})
	withGate(t, func(t *testing.T, g *atGate) { // past the deadline after the gate was closed
		g.start(0)
		time.Sleep(4 * time.Second)
		g.gate(true)
		time.Sleep(5 * time.Second)
		if got := g.cancelled(); got != nil {
			t.Errorf("%v are cancelled 1 s before the deadline", got)
		}
		time.Sleep(time.Second)
		if got := g.cancelled(); !slices.Equal(got, []int{0}) {
			t.Errorf("%v are cancelled at the deadline", got)
		}
	})
	withGate(t, func(t *testing.T, g *atGate) { // two of four are too many
		g.start(0)
		g.start(1)
		g.gate(true)
		time.Sleep(time.Minute)
		if got := g.cancelled(); got != nil || g.shut.Load() {
			t.Errorf("%v are cancelled, the others cannot make the quorum", got)
		}
	})
}

// The time that a retry waits at the gate does not count; the time of the tries does.
func TestARetryAtTheGateHasTime(t *testing.T) {
	withGate(t, func(t *testing.T, g *atGate) {
		for n := range 4 {
			g.start(n)
		}
		for n := range 3 {
			g.end(n, rollout.StopTerminated)
		}
		time.Sleep(6 * time.Second)
		g.retry(3)
		g.gate(true)
		time.Sleep(time.Minute)
		g.gate(false)
		g.start(3)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if g.shut.Load() {
			t.Error("closed 1 s before the deadline: the time at the gate counts")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !g.shut.Load() {
			t.Error("not closed at the deadline")
		}
	})
}

// An evaluation does not wait for the environment's own deadline if an episode hangs that
// has begun beside others that have not.
func TestAnEvaluationDoesNotWaitForAHangingEpisode(t *testing.T) {
	w := newOverlapped(t, func(c *config.Config) {
		c.Run.Steps, c.Eval.Every, c.Rollout.Concurrency = 2, 1, 4
		c.Rollout.Quorum, c.Rollout.DeadlineSeconds = 0.9, 0.001
	})
	w.config.Eval.Temperature = 0.5
	committed := make(chan struct{}) // step 1; the evaluation follows
	var once sync.Once
	w.onStep = func(StepMetrics) { once.Do(func() { close(committed) }) }
	w.backend.BeforeSample = func(ctx context.Context, _ sampler.Policy, r sampler.Request) error {
		w.see(r)
		switch {
		case r.Temperature == w.config.Eval.Temperature:
		case r.Session == "s2-g0-e0":
			<-ctx.Done()
			return context.Cause(ctx)
		case strings.HasPrefix(r.Session, "s2-g0-"): // most of the step is not sampled when the gate is closed
			<-committed
		}
		return nil
	}
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	// others that run beside it may be past so short a deadline, too, as far as the quorum allows
	m, played := w.steps[1], w.trajectories(2)
	if m.Cancelled < 1 || m.Cancelled > 3 || m.Failed != 0 || m.Free.N+m.Tips.N != 32-m.Cancelled {
		t.Errorf("%d cancelled, %d failed, %d played", m.Cancelled, m.Failed, m.Free.N+m.Tips.N)
	}
	if played[0].Group == 0 && played[0].Episode == 0 {
		t.Error("the episode that hangs has an end")
	}
	if len(w.evals) == 0 || w.evals[0].Step != 0 || w.evals[1].Step != 1 {
		t.Errorf("%+v", w.evals)
	}
}

// Episodes that hang do not hold a step. They are recorded as cancelled, and counted. A
// group that is left with one episode has no gradient.
func TestHangingEpisodesAreCancelled(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) {
		c.Run.Steps, c.Eval.Every, c.Rollout.Quorum, c.Rollout.DeadlineSeconds = 1, 0, 0.75, 0.001
		c.Eval.Temperature = 0.5 // the final evaluation does not hang
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
