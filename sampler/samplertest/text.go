package samplertest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// TextFixture is a backend under test whose server takes and returns text. No version is published yet.
type TextFixture struct {
	Backend sampler.Backend // closed by the suite
	// Adapter returns a version ≥ 1 whose weights differ from the base model's. Nil: the backend has no adapters and
	// must refuse all versions except 0.
	Adapter func(t *testing.T, version int) sampler.Adapter
	// Codec renders prompts to ids. Nil: requests have only messages, and completions have no ids.
	Codec chat.Codec
	// Fail makes the server answer the next n completions with a fault. Nil: tests that need one are skipped.
	Fail func(n int, fault Fault)
	// Prompt is the text of the user's message; empty: "hello".
	Prompt string
}

// RunText checks that a backend fulfils the part of the contract of [sampler.Backend] that needs no ids and log-probs.
// It calls open for each test.
func RunText(t *testing.T, open func(t *testing.T) TextFixture) {
	tests := []struct {
		name string
		f    func(*textSubject)
	}{
		{"capabilities do not claim ids", textCapabilities},
		{"a completion is text of the requested policy", textAnswers},
		{"greedy is deterministic", textGreedy},
		{"top-k and top-p are followed", textTruncated},
		{"a stop string ends a reply, or is refused", textStop},
		{"equal seeds give equal completions", textSeeds},
		{"publish is idempotent", textPublishTwice},
		{"an adapter answers under its version", textAdapter},
		{"versions do not mix under load", textConcurrent},
		{"invalid adapters are refused", textRefused},
		{"an unpublished policy is not served", textUnknown},
		{"a retired policy is not served", textRetired},
		{"retire waits for requests in flight", textRetireWaits},
		{"a version is replaced under load", textSwap},
		{"invalid requests are refused", textBadRequests},
		{"cancelled requests return", textCancel},
		{"a server that hangs ends at the deadline", textHang},
		{"a busy server is retried", textBusy},
		{"a broken answer is retried", textCut},
		{"an answer that is not JSON is an error", textGarbage},
		{"an answer much longer than its completion is an error", textFlood},
		{"a closed backend returns errors", textClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			late := errors.New("the conformance test took too long")
			ctx, cancel := context.WithTimeoutCause(t.Context(), callTimeout, late)
			defer cancel()
			s := &textSubject{T: t, TextFixture: open(t), ctx: ctx}
			defer func() {
				if err := s.Backend.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			test.f(s)
		})
	}
}

// A textSubject is the backend of one test.
type textSubject struct {
	*testing.T
	TextFixture
	ctx context.Context
}

func (s *textSubject) publish(a sampler.Adapter) sampler.Policy {
	s.Helper()
	p, err := s.Backend.Publish(s.ctx, a)
	if err != nil {
		s.Fatalf("publish version %d: %v", a.Version, err)
	}
	if p.Version != a.Version || p.Name == "" {
		s.Fatalf("publish version %d gave %+v", a.Version, p)
	}
	return p
}

func (s *textSubject) adapter(version int) sampler.Adapter {
	s.Helper()
	if s.Adapter == nil {
		s.Skip("the backend has no adapters")
	}
	return s.Adapter(s.T, version)
}

func (s *textSubject) fail(n int, fault Fault) {
	s.Helper()
	if s.Fail == nil {
		s.Skip("the server cannot be made to fail")
	}
	s.Fail(n, fault)
}

// request returns a request with a conversation of one turn.
func (s *textSubject) request(temperature float64, seed uint64) sampler.Request {
	s.Helper()
	text := s.Prompt
	if text == "" {
		text = "hello"
	}
	m := chat.Message{Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: text}}}
	r := sampler.Request{Messages: []chat.Message{m}, MaxTokens: longAnswer, Temperature: temperature, Seed: seed,
		Session: fmt.Sprint(seed)}
	if s.Codec == nil {
		return r
	}
	t, err := chat.NewChatML(s.ctx, s.Codec, s.Codec)
	if err != nil {
		s.Fatal(err)
	}
	if r.Prompt, err = t.Extend(s.ctx, nil, m); err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *textSubject) sample(p sampler.Policy, r sampler.Request) sampler.Completion {
	s.Helper()
	c, err := s.Backend.Sample(s.ctx, p, r)
	if err != nil {
		s.Fatalf("sample %s: %v", p.Name, err)
	}
	s.check(p, c)
	return c
}

// check checks the properties of all completions.
func (s *textSubject) check(p sampler.Policy, c sampler.Completion) {
	s.Helper()
	if c.Policy != p {
		s.Errorf("%+v answered, want %+v", c.Policy, p)
	}
	if c.Finish != sampler.FinishLength && c.Finish != sampler.FinishStop {
		s.Errorf("finish %q", c.Finish)
	}
	if len(c.IDs) != len(c.Logprobs) {
		s.Errorf("%d ids and %d log-probs", len(c.IDs), len(c.Logprobs))
	}
	switch {
	case s.Codec == nil && len(c.IDs) > 0:
		s.Errorf("ids %v without a codec", c.IDs)
	case s.Codec != nil && c.Finish == sampler.FinishStop:
		end, err := s.Codec.ControlToken(s.ctx, chatML[End])
		if err != nil {
			s.Fatal(err)
		}
		if len(c.IDs) == 0 || c.IDs[len(c.IDs)-1] != end {
			s.Errorf("finish %s without the end token: %v", c.Finish, c.IDs)
		}
	}
}

func textCapabilities(s *textSubject) {
	c, err := s.Backend.Capabilities(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	if c.Server == "" || c.IDsIn || c.IDsOut || c.Logprobs || c.LogprobSpace != "" || c.Parallel <= 0 || c.Replicas != 1 {
		s.Errorf("capabilities %+v: want those of a text server", c)
	}
	if has := c.Adapters != "none"; has != (s.Adapter != nil) {
		s.Errorf("adapters %q", c.Adapters)
	}
	err = sampler.Requirements{IDs: true, Logprobs: true}.Check(c)
	if !errors.Is(err, sampler.ErrCapability) || c.Hints["ids_out"] == "" || c.Hints["logprobs"] == "" {
		s.Errorf("without a hint: %v", err)
	}
}

func textAnswers(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	if c := s.sample(p, s.request(1, 7)); c.Text == "" {
		s.Errorf("no text: %+v", c)
	}
	r := s.request(0, 1)
	r.MaxTokens = 1
	if c := s.sample(p, r); c.Finish != sampler.FinishLength {
		s.Errorf("cut off after a token, finish %s", c.Finish)
	}
}

func textGreedy(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	if a, b := s.sample(p, s.request(0, 1)), s.sample(p, s.request(0, 2)); a.Text != b.Text {
		s.Errorf("%q and %q", a.Text, b.Text)
	}
}

// textTruncated samples from the likeliest token only.
func textTruncated(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	greedy := s.sample(p, s.request(0, 1))
	for seed := range uint64(8) {
		for _, by := range []sampler.Request{{TopK: 1}, {TopP: 1e-6}} {
			r := s.request(1, seed)
			r.TopK, r.TopP = by.TopK, by.TopP
			if c := s.sample(p, r); c.Text != greedy.Text {
				s.Errorf("top-k %d, top-p %g: %q, want %q", r.TopK, r.TopP, c.Text, greedy.Text)
			}
		}
	}
}

func textStop(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	can, err := s.Backend.Capabilities(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	complete := s.sample(p, s.request(0, 1))
	stop, before := middle(complete.Text)
	r := s.request(0, 1)
	r.Stop = []string{"no such text", stop}
	if !can.StopStrings {
		if _, err := s.Backend.Sample(s.ctx, p, r); !errors.Is(err, sampler.ErrCapability) ||
			can.Hints["stop_strings"] == "" {
			s.Errorf("stop strings: %v", err)
		}
		return
	}
	if c := s.sample(p, r); c.Text != before || c.Finish != sampler.FinishStop {
		s.Errorf("%q stopped at %q: %q, finish %s", complete.Text, stop, c.Text, c.Finish)
	}
}

func textSeeds(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	seen := map[string]bool{}
	for seed := range uint64(16) {
		a, b := s.sample(p, s.request(1, seed)), s.sample(p, s.request(1, seed))
		if a.Text != b.Text {
			s.Errorf("seed %d: %q and %q", seed, a.Text, b.Text)
		}
		seen[a.Text] = true
	}
	if len(seen) < 2 {
		s.Errorf("16 seeds gave %v", seen)
	}
}

func textPublishTwice(s *textSubject) {
	p := s.publish(sampler.Adapter{})
	if q := s.publish(sampler.Adapter{}); q != p {
		s.Errorf("published again: %+v, want %+v", q, p)
	}
	if s.Adapter == nil {
		return
	}
	a := s.adapter(1)
	p = s.publish(a)
	if q := s.publish(a); q != p {
		s.Errorf("published again: %+v, want %+v", q, p)
	}
	if _, err := s.Backend.Publish(s.ctx, sampler.Adapter{Version: 1, GGUF: s.adapter(2).GGUF}); err == nil {
		s.Error("one version was published with two adapters")
	}
}

func textAdapter(s *textSubject) {
	base := s.publish(sampler.Adapter{})
	p := s.publish(s.adapter(1))
	if p.Name == base.Name {
		s.Errorf("base and adapter are both %s", p.Name)
	}
	if diff := cmp.Diff(s.texts(base), s.texts(p)); diff == "" {
		s.Error("the adapter answers as the base model: it is not applied")
	}
}

// texts returns a policy's completions for 16 seeds.
func (s *textSubject) texts(p sampler.Policy) (texts [16]string) {
	s.Helper()
	for seed := range texts {
		texts[seed] = s.sample(p, s.request(1, uint64(seed))).Text
	}
	return texts
}

// textConcurrent samples from two versions at the same time. Every completion must equal the one that its version gave
// without load.
func textConcurrent(s *textSubject) {
	policies := []sampler.Policy{s.publish(sampler.Adapter{})}
	if s.Adapter != nil {
		policies = append(policies, s.publish(s.adapter(1)))
	}
	var alone [][16]string
	for _, p := range policies {
		alone = append(alone, s.texts(p))
	}
	var answers [32]sampler.Completion
	var group errgroup.Group
	for i := range answers {
		group.Go(func() (err error) {
			answers[i], err = s.Backend.Sample(s.ctx, policies[i%len(policies)], s.request(1, uint64(i/2)))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		s.Fatal(err)
	}
	for i, c := range answers {
		s.check(policies[i%len(policies)], c)
		if want := alone[i%len(policies)][i/2]; c.Text != want {
			s.Errorf("request %d: %q, alone %q", i, c.Text, want)
		}
	}
}
