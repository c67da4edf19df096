package samplertest

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
)

func textRefused(s *textSubject) {
	s.publish(sampler.Adapter{})
	refused := []sampler.Adapter{{Version: -1}, {Version: 1}, {Version: 1, Dir: "/no/such", GGUF: "/no/such/adapter.gguf"}}
	for _, a := range refused {
		if p, err := s.Backend.Publish(s.ctx, a); err == nil {
			s.Errorf("published %+v as %+v", a, p)
		}
	}
}

// checkGone checks that a policy is not served.
func (s *textSubject) checkGone(p sampler.Policy) {
	s.Helper()
	if _, err := s.Backend.Sample(s.ctx, p, s.request(0, 1)); !errors.Is(err, sampler.ErrPolicyGone) {
		s.Errorf("sample %s: %v, want ErrPolicyGone", p.Name, err)
	}
}

func textUnknown(s *textSubject) {
	s.checkGone(sampler.Policy{Version: 0, Name: "policy"})
	s.publish(sampler.Adapter{})
	s.checkGone(sampler.Policy{Version: 41, Name: "policy-v000041"})
}

func textRetired(s *textSubject) {
	base := s.publish(sampler.Adapter{})
	p := base
	if s.Adapter != nil {
		p = s.publish(s.adapter(1))
	}
	for range 2 {
		if err := s.Backend.Retire(s.ctx, p); err != nil {
			s.Fatalf("retire: %v", err)
		}
	}
	s.checkGone(p)
	if p == base { // the server still has it
		base = s.publish(sampler.Adapter{})
	}
	s.sample(base, s.request(1, 1))
}

// textRetireWaits retires a version under load. Every request must be answered or fail with ErrPolicyGone.
func textRetireWaits(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	if s.Adapter != nil {
		p = s.publish(s.adapter(1))
	}
	const requests = 24
	first := make(chan struct{}, requests)
	var group errgroup.Group
	for i := range requests {
		group.Go(func() error {
			r := s.request(1, uint64(i))
			first <- struct{}{}
			_, err := s.Backend.Sample(s.ctx, p, r)
			if errors.Is(err, sampler.ErrPolicyGone) {
				return nil
			}
			return err
		})
	}
	<-first
	if err := s.Backend.Retire(s.ctx, p); err != nil {
		s.Errorf("retire under load: %v", err)
	}
	if err := group.Wait(); err != nil {
		s.Fatalf("a request in flight was lost: %v", err)
	}
	s.checkGone(p)
}

func textBadRequests(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	f := func(what string, change func(*sampler.Request)) {
		r := s.request(1, 1)
		change(&r)
		if c, err := s.Backend.Sample(s.ctx, p, r); err == nil {
			s.Errorf("%s: %+v", what, c)
		}
	}
	f("no tokens", func(r *sampler.Request) { r.MaxTokens = 0 })
	f("temperature below 0", func(r *sampler.Request) { r.Temperature = -1 })
	f("temperature NaN", func(r *sampler.Request) { r.Temperature = math.NaN() })
	f("nothing to answer", func(r *sampler.Request) { r.Prompt, r.Messages = nil, nil })
}

func textCancel(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	reason := errors.New("the test cancelled the request")
	ctx, cancel := context.WithCancelCause(s.ctx)
	var group errgroup.Group
	for i := range 8 {
		group.Go(func() error {
			_, err := s.Backend.Sample(ctx, p, s.request(1, uint64(i)))
			if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, reason) {
				return err
			}
			return nil // cancelled, or finished before
		})
	}
	cancel(reason)
	if err := group.Wait(); err != nil {
		s.Errorf("a cancelled request: %v", err)
	}
	if _, err := s.Backend.Sample(ctx, p, s.request(1, 1)); err == nil {
		s.Error("a request with a cancelled context was answered")
	}
	s.sample(p, s.request(1, 1))
}

func textHang(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	s.fail(1, FaultHang)
	late := errors.New("no answer in time")
	ctx, cancel := context.WithTimeoutCause(s.ctx, 20*time.Millisecond, late)
	defer cancel()
	if _, err := s.Backend.Sample(ctx, p, s.request(1, 1)); !errors.Is(err, late) {
		s.Errorf("a server that hangs: %v", err)
	}
	s.sample(p, s.request(1, 1))
}

func textBusy(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	want := s.sample(p, s.request(1, 1))
	s.fail(2, FaultBusy)
	if c := s.sample(p, s.request(1, 1)); c.Text != want.Text {
		s.Errorf("%q after 503, want %q", c.Text, want.Text)
	}
}

func textCut(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	want := s.sample(p, s.request(1, 1))
	s.fail(1, FaultCut)
	if c := s.sample(p, s.request(1, 1)); c.Text != want.Text {
		s.Errorf("%q after a broken body, want %q", c.Text, want.Text)
	}
}

func textGarbage(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	s.fail(1, FaultGarbage)
	if c, err := s.Backend.Sample(s.ctx, p, s.request(1, 1)); err == nil {
		s.Errorf("an answer that is not JSON gave %+v", c)
	}
	s.sample(p, s.request(1, 1))
}

func textFlood(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	s.fail(1, FaultFlood)
	_, err := s.Backend.Sample(s.ctx, p, s.request(1, 1))
	if err == nil || !strings.Contains(err.Error(), "the answer is longer than 1 MiB") {
		s.Errorf("an answer of 2 MiB: %v", err)
	}
	s.sample(p, s.request(1, 1))
}

func textClose(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	r := s.request(1, 1)
	for range 2 {
		if err := s.Backend.Close(); err != nil {
			s.Fatalf("close: %v", err)
		}
	}
	if _, err := s.Backend.Sample(s.ctx, p, r); err == nil {
		s.Error("a closed backend answered")
	}
	if _, err := s.Backend.Publish(s.ctx, sampler.Adapter{}); err == nil {
		s.Error("a closed backend published")
	}
}
