package samplertest

import (
	"context"
	"errors"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
)

// testAdapter compares the adapter's completions with its trainer and with the base model.
func testAdapter(s *subject) {
	base := s.publish(sampler.Adapter{})
	a := s.adapter(1)
	p := s.publish(a)
	if p.Name == base.Name {
		s.Errorf("base and adapter are both %s", p.Name)
	}
	prompt := s.prompt(0)
	c := s.sample(p, sampler.Request{Prompt: prompt, MaxTokens: longAnswer, Temperature: 1, Seed: 5})
	s.checkScores(a, prompt, c)
	before := s.sample(base, sampler.Request{Prompt: prompt, MaxTokens: longAnswer, Temperature: 1, Seed: 5})
	if slices.Equal(c.IDs, before.IDs) && MaxDiff(c.Logprobs, before.Logprobs) <= s.Tolerance {
		s.Error("the adapter answers as the base model: it is not applied")
	}
}

// checkScores compares a completion with the trainer's log-probs.
func (s *subject) checkScores(a sampler.Adapter, prompt []int32, c sampler.Completion) {
	s.Helper()
	if a.Score == nil {
		return
	}
	scores, err := a.Score(s.ctx, slices.Concat(prompt, c.IDs))
	if err != nil {
		s.Fatal(err)
	}
	if d := MaxDiff(c.Logprobs, scores[len(scores)-len(c.IDs):]); d > s.Tolerance {
		s.Errorf("version %d: the server's log-probs differ from the trainer's by %v", a.Version, d)
	}
}

// MaxDiff returns the largest |a−b|. Values that are NaN in a or b do not count.
func MaxDiff(a, b []float32) float64 {
	var largest float64
	for i := range a {
		if d := math.Abs(float64(a[i]) - float64(b[i])); d > largest {
			largest = d
		}
	}
	return largest
}

// testConcurrent samples from two versions at the same time. Every greedy completion must equal the one that its
// version gave without load.
func testConcurrent(s *subject) {
	policies := []sampler.Policy{s.publish(sampler.Adapter{}), s.publish(s.adapter(1))}
	prompt := s.prompt(0)
	greedy := sampler.Request{Prompt: prompt, MaxTokens: 4}
	var alone []sampler.Completion
	for _, p := range policies {
		alone = append(alone, s.sample(p, greedy))
	}
	answers := make([]sampler.Completion, 32)
	var group errgroup.Group
	for i := range answers {
		group.Go(func() (err error) {
			answers[i], err = s.Backend.Sample(s.ctx, policies[i%2], greedy)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		s.Fatal(err)
	}
	for i, c := range answers {
		s.check(policies[i%2], greedy, c)
		s.same(policies[i%2].Name, alone[i%2], c.IDs, c.Logprobs)
	}
}

// checkGone checks that a policy is not served.
func (s *subject) checkGone(p sampler.Policy) {
	s.Helper()
	_, err := s.Backend.Sample(s.ctx, p, sampler.Request{Prompt: s.prompt(0), MaxTokens: 1})
	if !errors.Is(err, sampler.ErrPolicyGone) {
		s.Errorf("sample %s: %v, want ErrPolicyGone", p.Name, err)
	}
}

func testUnknown(s *subject) {
	s.publish(sampler.Adapter{})
	s.checkGone(sampler.Policy{Version: 41, Name: "policy-v000041"})
}

func testRetired(s *subject) {
	base, p := s.publish(sampler.Adapter{}), s.publish(s.adapter(1))
	if err := s.Backend.Retire(s.ctx, p); err != nil {
		s.Fatal(err)
	}
	s.checkGone(p)
	if err := s.Backend.Retire(s.ctx, p); err != nil {
		s.Errorf("retire again: %v", err)
	}
	s.sample(base, sampler.Request{Prompt: s.prompt(0), MaxTokens: 2, Temperature: 1, Seed: 1})
}

// testRetireWaits retires a version under load. Every request must be answered completely or fail with ErrPolicyGone.
func testRetireWaits(s *subject) {
	base, p := s.publish(sampler.Adapter{}), s.publish(s.adapter(1))
	r := sampler.Request{Prompt: s.prompt(0), MaxTokens: longAnswer, Temperature: 1, Seed: 3}
	const requests = 24
	answers := make(chan sampler.Completion, requests)
	first := make(chan struct{}, requests)
	var group errgroup.Group
	for range requests {
		group.Go(func() error {
			first <- struct{}{}
			c, err := s.Backend.Sample(s.ctx, p, r)
			if errors.Is(err, sampler.ErrPolicyGone) {
				return nil
			}
			answers <- c
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
	close(answers)
	for c := range answers {
		s.check(p, r, c)
	}
	s.checkGone(p)
	s.sample(base, sampler.Request{Prompt: s.prompt(0), MaxTokens: 2})
}

func testCancel(s *subject) {
	p := s.publish(sampler.Adapter{})
	r := sampler.Request{Prompt: s.prompt(0), MaxTokens: longAnswer, Temperature: 1, Seed: 1}
	reason := errors.New("the test cancelled the request")
	ctx, cancel := context.WithCancelCause(s.ctx)
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			c, err := s.Backend.Sample(ctx, p, r)
			switch {
			case err == nil:
				s.check(p, r, c) // finished before the cancellation
			case !errors.Is(err, context.Canceled) && !errors.Is(err, reason):
				return err
			}
			return nil
		})
	}
	cancel(reason)
	if err := group.Wait(); err != nil {
		s.Errorf("a cancelled request: %v", err)
	}
	if _, err := s.Backend.Sample(ctx, p, r); err == nil {
		s.Error("a request with a cancelled context was answered")
	}
	s.sample(p, r)
}

func testClose(s *subject) {
	p := s.publish(sampler.Adapter{})
	if err := s.Backend.Close(); err != nil {
		s.Fatalf("close: %v", err)
	}
	s.closed = true
	if _, err := s.Backend.Sample(s.ctx, p, sampler.Request{Prompt: []int32{0}, MaxTokens: 1}); err == nil {
		s.Error("a closed backend answered")
	}
}
