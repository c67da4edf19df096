package watchdog

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is a log that goroutines share.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// lines returns the messages so far and forgets them.
func (b *buffer) lines() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

// watching runs f with a Watch that reports to a log.
func watching(t *testing.T, f func(ctx context.Context, w *Watch, log *buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log, w := &buffer{}, New()
		ctx, cancel := context.WithCancel(With(context.Background(), w))
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx, Options{Log: zerolog.New(log)})
		}()
		f(ctx, w, log)
		cancel()
		<-done
	})
}

// A stall is named at most 15 seconds after it has begun, with its deadline and
// with the number of those that wait too.
func TestStallHasAName(t *testing.T) {
	watching(t, func(ctx context.Context, _ *Watch, log *buffer) {
		end := Begin(Label(ctx, "step 3, episode 0/5"), "server", "sample v000002", 5*time.Minute)
		time.Sleep(time.Second)
		other := Begin(ctx, "server", "sample v000002", 5*time.Minute)
		time.Sleep(8 * time.Second)
		if text := log.lines(); text != "" {
			t.Errorf("after 9 s: %s", text)
		}
		time.Sleep(6 * time.Second)
		const want = "still waiting for the server: sample v000002 (step 3, episode 0/5), for 10s " +
			"(deadline 5m0s); 1 other waits too"
		if text := log.lines(); strings.Count(text, "still waiting") != 1 || !strings.Contains(text, want) {
			t.Errorf("after 15 s: %q, want %q", text, want)
		}
		time.Sleep(26 * time.Second) // again at 20 s, then at 40 s
		if text := log.lines(); strings.Count(text, "still waiting") != 2 {
			t.Errorf("after 41 s: %s", text)
		}
		end()
		other()
		end() // a second call has no effect
		time.Sleep(time.Minute)
		if text := log.lines(); text != "" {
			t.Errorf("after the end: %s", text)
		}
	})
}

// What usually takes long is reported later, but before its deadline.
func TestPatienceIsLearnt(t *testing.T) {
	watching(t, func(ctx context.Context, _ *Watch, log *buffer) {
		end := Begin(ctx, "trainer", "forward_backward", 30*time.Minute)
		time.Sleep(time.Minute)
		end()
		log.lines()
		end = Begin(ctx, "trainer", "forward_backward", 30*time.Minute)
		time.Sleep(178 * time.Second)
		if text := log.lines(); text != "" {
			t.Errorf("a call that usually takes a minute was reported before three: %s", text)
		}
		time.Sleep(4 * time.Second)
		if text := log.lines(); !strings.Contains(text, "the trainer: forward_backward, for 3m0s") {
			t.Errorf("after 182 s: %q", text)
		}
		end()
		end = Begin(ctx, "trainer", "forward_backward", 2*time.Minute)
		time.Sleep(62 * time.Second)
		if text := log.lines(); !strings.Contains(text, "for 1m0s (deadline 2m0s)") {
			t.Errorf("at half of the deadline: %q", text)
		}
		end()
	})
}

func TestRunsAreNamed(t *testing.T) {
	watching(t, func(ctx context.Context, w *Watch, log *buffer) {
		child, remove := w.Child("vault")
		end := Begin(With(ctx, child), "start", "llama-server", 0)
		time.Sleep(29 * time.Second) // a start takes longer than a call
		if text := log.lines(); text != "" {
			t.Errorf("after 29 s: %s", text)
		}
		time.Sleep(3 * time.Second)
		if text := log.lines(); !strings.Contains(text, "vault: still waiting for the start of llama-server, for 30s") {
			t.Errorf("got %q", text)
		}
		child.SetPhase(Phase{Name: PhaseTraining, Step: 2})
		child.Last("step 1 done")
		for _, want := range []string{"vault: doing: step 2: training", "phase: step 2: training, ",
			"progress: no call has ended for ", "last: step 1 done",
			"waiting for the start of llama-server, for 32s"} {
			if text := w.Text(); !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
		remove()
		time.Sleep(time.Hour)
		if text := log.lines(); text != "" {
			t.Errorf("after remove: %q", text)
		}
		end()
	})
}

// A run in which nothing ends is reported once for each stall.
func TestIdleRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New()
		w.SetPhase(Phase{Name: PhaseSampling, Step: 4})
		end := Begin(With(context.Background(), w), "environment", "step", time.Hour)
		time.Sleep(10 * time.Minute)
		if text := w.Idle(11 * time.Minute); text != "" {
			t.Errorf("too early: %q", text)
		}
		if text := w.Idle(0); text != "" {
			t.Errorf("switched off: %q", text)
		}
		const want = "nothing has finished for 10m0s in step 4: sampling; " +
			"waiting for the environment: step, for 10m0s (deadline 1h0m0s)"
		if text := w.Idle(10 * time.Minute); text != want {
			t.Errorf("got %q, want %q", text, want)
		}
		if text := w.Idle(10 * time.Minute); text != "" {
			t.Errorf("reported again: %q", text)
		}
		end()
		time.Sleep(10 * time.Minute)
		if text := w.Idle(10 * time.Minute); text == "" {
			t.Error("a second stall was not reported")
		}
	})
}

// An item of which nothing is known but its age is reported every 30 seconds at
// least.
func TestSilenceIsBounded(t *testing.T) {
	watching(t, func(ctx context.Context, _ *Watch, log *buffer) {
		end := Begin(ctx, "trainer", "forward", 0)
		defer end()
		var at []string
		for range 140 {
			time.Sleep(time.Second)
			for _, line := range strings.Split(strings.TrimSpace(log.lines()), "\n") {
				if _, age, ok := strings.Cut(line, "the trainer: forward, for "); ok {
					at = append(at, strings.TrimSuffix(age, `"}`))
				}
			}
		}
		if want := []string{"10s", "20s", "40s", "1m10s", "1m40s", "2m10s"}; !slices.Equal(at, want) {
			t.Errorf("reported at %q, want %q", at, want)
		}
	})
}

// A child that a signal has stopped is named at once, also while it starts, and again
// if it is stopped again. The status of a run names the program's children too.
func TestStoppedChildren(t *testing.T) {
	watching(t, func(ctx context.Context, w *Watch, log *buffer) {
		var stopped atomic.Int64
		w.isStopped = func(pid int) bool { return int64(pid) == stopped.Load() }
		run, remove := w.Child("vault")
		defer remove()
		run.isStopped = w.isStopped
		ended := []func(){Owns(ctx, "jvm", 7), Owns(With(ctx, run), "trainer", 8)}
		for _, c := range []struct {
			pid    int64
			status string
			logged string
		}{
			{0, "", ""},
			{8, "trainer (process 8) is stopped; kill -CONT 8 lets it go on", "vault: trainer (process 8) is stopped"},
			{7, "jvm (process 7) is stopped; kill -CONT 7 lets it go on", "jvm (process 7) is stopped"},
			{8, "trainer (process 8) is stopped; kill -CONT 8 lets it go on", "vault: trainer (process 8) is stopped"},
			{9, "", ""},
		} {
			stopped.Store(c.pid)
			time.Sleep(20 * time.Second)
			var named string
			for _, s := range run.Status().Stopped {
				named += s.String()
			}
			text := log.lines()
			if named != c.status || strings.Count(text, "is stopped") > 1 || !strings.Contains(text, c.logged) ||
				c.status != "" && !slices.Contains(run.Status().Lines(), c.status) {
				t.Errorf("process %d: %q and %q, want %q", c.pid, named, text, c.status)
			}
		}
		stopped.Store(8)
		for _, end := range ended {
			end()
		}
		if n := len(run.Status().Stopped); n > 0 {
			t.Errorf("%d children after their end", n)
		}
	})
	Owns(context.Background(), "trainer", 8)() // without a Watch
}

func TestWithoutAWatch(t *testing.T) {
	ctx := context.Background()
	if Label(ctx, "x") != ctx {
		t.Error("a label without a Watch")
	}
	Begin(ctx, "server", "sample", 0)()
	From(ctx).SetPhase(Phase{})
	child, remove := From(ctx).Child("run")
	child.SetPhase(Phase{})
	remove()
}
