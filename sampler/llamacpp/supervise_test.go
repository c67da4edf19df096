package llamacpp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func TestLostConnectionsAreRetried(t *testing.T) {
	for _, fault := range []samplertest.Fault{samplertest.FaultCut, samplertest.FaultBusy} {
		f := newFakes()
		f.prepare = faultAt(1, fault)
		b, p := f.serve(t, Config{})
		c, err := b.Sample(t.Context(), p, testRequest)
		if err != nil || c.Policy != p {
			t.Errorf("%s: %v %v", fault, c, err)
		}
		if s := b.Stats(); s.Retries != 1 || s.Restarts != 0 {
			t.Errorf("%s: %+v", fault, s)
		}
	}
}

func TestRetriesAreLimited(t *testing.T) {
	f := newFakes()
	f.prepare = func(_ int, s *fakeserver.Llama) error {
		s.Fault = func(n int) samplertest.Fault {
			if n == 0 {
				return ""
			}
			return samplertest.FaultCut
		}
		return nil
	}
	b, p := f.serve(t, Config{})
	if _, err := b.Sample(t.Context(), p, testRequest); !errors.Is(err, errLost) {
		t.Error(err)
	}
}

func TestADeadServerIsReplaced(t *testing.T) {
	f := newFakes()
	restarted := make(chan string, 1)
	b, p := f.serve(t, Config{OnRestart: func(name string, why error) { restarted <- fmt.Sprint(name, ": ", why) }})
	f.last().kill()
	if c, err := b.Sample(t.Context(), p, testRequest); err != nil || c.Policy != p {
		t.Errorf("%v %v", c, err)
	}
	if got := <-restarted; got != p.Name+": the fake was killed" {
		t.Errorf("restarted %q", got)
	}
	if b.Stats().Restarts != 1 {
		t.Errorf("%+v", b.Stats())
	}
}

// While the next process loads, the restart has a name.
func TestARestartHasAName(t *testing.T) {
	watch, shown := watchdog.New(), make(chan string, 1)
	f := newFakes()
	f.watch = watch
	f.prepare = func(n int, _ *fakeserver.Llama) error {
		if n == 0 {
			return nil
		}
		var all []string
		for _, i := range watch.Status().InFlight {
			all = append(all, i.Subsystem+": "+i.What)
		}
		shown <- strings.Join(all, "\n")
		return nil
	}
	b, p := f.serve(t, Config{})
	f.last().kill()
	if got := <-shown; !strings.Contains(got, "server: restart llama-server of "+p.Name) {
		t.Errorf("in flight: %s", got)
	}
	if _, err := b.Sample(t.Context(), p, testRequest); err != nil {
		t.Error(err)
	}
	if got := watch.Status().InFlight; len(got) != 0 {
		t.Errorf("in flight after the restart: %v", got)
	}
}

func TestAHungServerIsReplaced(t *testing.T) {
	f := newFakes()
	f.prepare = func(n int, s *fakeserver.Llama) error {
		if n == 0 {
			return faultAt(1, samplertest.FaultHang)(n, s)
		}
		return nil
	}
	b, p := f.serve(t, Config{RequestTimeout: 100 * time.Millisecond})
	if _, err := b.Sample(t.Context(), p, testRequest); err != nil {
		t.Error(err)
	}
	if b.Stats().Restarts != 1 {
		t.Errorf("%+v", b.Stats())
	}
}

func TestASlowRequestDoesNotKillTheOthers(t *testing.T) {
	f := newFakes()
	hanging := make(chan struct{})
	f.prepare = func(_ int, s *fakeserver.Llama) error {
		s.Fault = func(n int) samplertest.Fault {
			if n != 1 {
				return ""
			}
			close(hanging)
			return samplertest.FaultHang
		}
		return nil
	}
	b, p := f.serve(t, Config{RequestTimeout: 2 * time.Second})
	slow := make(chan error)
	go func() { _, err := b.Sample(t.Context(), p, testRequest); slow <- err }()
	<-hanging
	if _, err := b.Sample(t.Context(), p, testRequest); err != nil {
		t.Error(err)
	}
	if err := <-slow; !errors.Is(err, errSlow) || !strings.Contains(err.Error(), "hint: ") {
		t.Error(err)
	}
	if b.Stats().Restarts != 0 {
		t.Errorf("%+v", b.Stats())
	}
}

func TestARequestThatHangsEndsWithItsContext(t *testing.T) {
	f := newFakes()
	f.prepare = faultAt(1, samplertest.FaultHang)
	b, p := f.serve(t, Config{})
	reason := errors.New("the test's deadline")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, reason)
	defer cancel()
	if _, err := b.Sample(ctx, p, testRequest); !errors.Is(err, reason) {
		t.Error(err)
	}
}

func TestAVersionFailsAfterTooManyRestarts(t *testing.T) {
	f := newFakes()
	broken := errors.New("the start failed")
	f.prepare = func(n int, _ *fakeserver.Llama) error {
		if n > 0 {
			return broken
		}
		return nil
	}
	b, p := f.serve(t, Config{Budget: process.Budget{Restarts: 2, Window: time.Hour, Pause: 1}})
	f.last().kill()
	_, err := b.Sample(t.Context(), p, testRequest)
	if !errors.Is(err, sampler.ErrPolicyGone) || !errors.Is(err, broken) {
		t.Error(err)
	}
	f.prepare = nil
	if _, err := b.Publish(t.Context(), sampler.Adapter{}); err != nil {
		t.Error(err)
	}
	if _, err := b.Sample(t.Context(), p, testRequest); err != nil {
		t.Errorf("published again: %v", err)
	}
}

func TestAReplacementMustAnswerLikeTheFirstProcess(t *testing.T) {
	f := newFakes()
	f.prepare = func(n int, s *fakeserver.Llama) error {
		if n > 0 {
			s.Policy.Script = samplertest.Say("pull something else")
		}
		return nil
	}
	b, p := f.serve(t, Config{})
	f.last().kill()
	_, err := b.Sample(t.Context(), p, testRequest)
	if !errors.Is(err, sampler.ErrPolicyGone) || !strings.Contains(err.Error(), "a file was changed") {
		t.Error(err)
	}
}
