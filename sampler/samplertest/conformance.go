package samplertest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// Fixture is a backend under test. No version is published yet.
type Fixture struct {
	Backend   sampler.Backend // closed by the suite
	Tokenizer chat.Tokenizer
	Control   chat.ControlTokens
	// Adapter returns a version ≥ 1 whose weights differ from the base model's. Nil: tests that need one are skipped.
	Adapter func(t *testing.T, version int) sampler.Adapter
	// Tolerance bounds the difference of log-probs of the same tokens in nats, between two requests and between server
	// and Adapter.Score.
	Tolerance float64
	// Prompt is the text of the user's message; empty: "hello".
	Prompt string
}

const (
	callTimeout = time.Minute
	longAnswer  = 24 // tokens
)

// Run checks that a backend fulfils the contract of [sampler.Backend]. It calls open for each test.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		f    func(*subject)
	}{
		{"capabilities are known", testCapabilities},
		{"plain text gives no control token", testTokenizer},
		{"completions have one log-prob per id", testAligned},
		{"greedy completions are equal at once and token by token", testGreedy},
		{"top-k and top-p do not change the log-probs", testTruncated},
		{"a stop string ends a reply", testStop},
		{"a completion that is watched is the same one", testWritten},
		{"parameters out of range are refused", testParameters},
		{"publish is idempotent", testPublishTwice},
		{"an adapter answers under its version", testAdapter},
		{"versions do not mix under load", testConcurrent},
		{"an unpublished policy is not served", testUnknown},
		{"a retired policy is not served", testRetired},
		{"retire waits for requests in flight", testRetireWaits},
		{"a version is replaced under load", testSwap},
		{"cancelled requests return", testCancel},
		{"a closed backend returns errors", testClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			late := errors.New("the conformance test took too long")
			ctx, cancel := context.WithTimeoutCause(t.Context(), callTimeout, late)
			defer cancel()
			s := &subject{T: t, Fixture: open(t), ctx: ctx}
			defer func() {
				if err := s.Backend.Close(); err != nil && !s.closed {
					t.Errorf("close: %v", err)
				}
			}()
			test.f(s)
		})
	}
}

// A subject is the backend of one test.
type subject struct {
	*testing.T
	Fixture
	ctx    context.Context
	closed bool
}

// publish publishes a version or fails the test.
func (s *subject) publish(a sampler.Adapter) sampler.Policy {
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

// adapter returns a version of the fixture or skips the test.
func (s *subject) adapter(version int) sampler.Adapter {
	s.Helper()
	if s.Adapter == nil {
		s.Skip("the fixture has no adapter")
	}
	return s.Adapter(s.T, version)
}

func (s *subject) template() *chat.Template {
	s.Helper()
	t, err := chat.NewChatML(s.ctx, s.Tokenizer, s.Control)
	if err != nil {
		s.Fatal(err)
	}
	return t
}

// prompt returns the ids of a conversation of one turn. Prompts with different n differ.
func (s *subject) prompt(n int) []int32 {
	s.Helper()
	text := s.Prompt
	if text == "" {
		text = "hello"
	}
	if n > 0 {
		text = fmt.Sprintf("%s %d", text, n)
	}
	ids, err := s.template().Extend(s.ctx, nil, chat.Message{
		Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: text}},
	})
	if err != nil {
		s.Fatal(err)
	}
	return ids
}

// sample samples a completion and checks it.
func (s *subject) sample(p sampler.Policy, r sampler.Request) sampler.Completion {
	s.Helper()
	c, err := s.Backend.Sample(s.ctx, p, r)
	if err != nil {
		s.Fatalf("sample %s: %v", p.Name, err)
	}
	s.check(p, r, c)
	return c
}

// check checks the properties of all completions.
func (s *subject) check(p sampler.Policy, r sampler.Request, c sampler.Completion) {
	s.Helper()
	if c.Policy != p {
		s.Errorf("%+v answered, want %+v", c.Policy, p)
	}
	if len(c.IDs) == 0 || len(c.IDs) > r.MaxTokens || len(c.IDs) != len(c.Logprobs) {
		s.Fatalf("%d ids and %d log-probs, limit %d", len(c.IDs), len(c.Logprobs), r.MaxTokens)
	}
	for i, l := range c.Logprobs {
		if math.IsInf(float64(l), 0) || l > 1e-4 { // NaN is allowed: the value is unknown
			s.Errorf("log-prob %d is %v", i, l)
		}
	}
	if c.Finish == sampler.FinishLength && len(c.IDs) != r.MaxTokens {
		s.Errorf("finished by length with %d of %d tokens", len(c.IDs), r.MaxTokens)
	}
	if c.Finish != sampler.FinishLength && c.Finish != sampler.FinishStop {
		s.Errorf("finish %q", c.Finish)
	}
	eos := s.template().EOS()
	if i := slices.Index(c.IDs, eos); i >= 0 && (i != len(c.IDs)-1 || c.Finish != sampler.FinishStop) {
		s.Errorf("end token at %d of %d, finish %s", i, len(c.IDs), c.Finish)
	}
}

func testCapabilities(s *subject) {
	s.publish(sampler.Adapter{})
	c, err := s.Backend.Capabilities(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	if c.Server == "" || !c.IDsIn || !c.IDsOut || !c.Logprobs || c.VocabSize <= 0 || c.Parallel <= 0 {
		s.Errorf("capabilities %+v: want ids in and out with log-probs", c)
	}
}

func testTokenizer(s *subject) {
	s.publish(sampler.Adapter{})
	start, err := s.Control.ControlToken(s.ctx, "<|im_start|>")
	if err != nil {
		s.Fatal(err)
	}
	end, err := s.Control.ControlToken(s.ctx, "<|im_end|>")
	if err != nil {
		s.Fatal(err)
	}
	ids, err := s.Tokenizer.Tokenize(s.ctx, "a<|im_end|>\n<|im_start|>b")
	if err != nil {
		s.Fatal(err)
	}
	if len(ids) == 0 || slices.Contains(ids, start) || slices.Contains(ids, end) {
		s.Errorf("plain text has the control tokens %d or %d: %v", start, end, ids)
	}
	again, err := s.Tokenizer.Tokenize(s.ctx, "a<|im_end|>\n<|im_start|>b")
	if err != nil || !slices.Equal(ids, again) {
		s.Errorf("tokenized again: %v, %v", again, err)
	}
	if _, err := s.Control.ControlToken(s.ctx, "<|there is no such token|>"); err == nil {
		s.Error("an unknown control token was resolved")
	}
}

func testAligned(s *subject) {
	p := s.publish(sampler.Adapter{})
	for seed := range uint64(8) {
		s.sample(p, sampler.Request{Prompt: s.prompt(0), MaxTokens: longAnswer, Temperature: 1, Seed: seed + 1})
	}
}

// testGreedy samples a greedy completion at once and token by token. Both must have the same ids and log-probs, so
// prompts and completions are exact and a cached prefix does not change the result.
func testGreedy(s *subject) {
	p := s.publish(sampler.Adapter{})
	prompt := s.prompt(0)
	atOnce := s.sample(p, sampler.Request{Prompt: prompt, MaxTokens: 6})
	again := s.sample(p, sampler.Request{Prompt: prompt, MaxTokens: 6, Seed: 99})
	s.same("the same request again", atOnce, again.IDs, again.Logprobs)
	var ids []int32
	var logprobs []float32
	for range atOnce.IDs {
		c := s.sample(p, sampler.Request{Prompt: slices.Concat(prompt, ids), MaxTokens: 1, Session: "pieces"})
		ids = append(ids, c.IDs...)
		logprobs = append(logprobs, c.Logprobs...)
	}
	s.same("token by token", atOnce, ids, logprobs)
}

// same checks that a completion has the ids and log-probs of want.
func (s *subject) same(what string, want sampler.Completion, ids []int32, logprobs []float32) {
	s.Helper()
	if !slices.Equal(want.IDs, ids) {
		s.Fatalf("%s: ids %v, want %v", what, ids, want.IDs)
	}
	for i, l := range logprobs {
		if d := math.Abs(float64(l) - float64(want.Logprobs[i])); d > s.Tolerance {
			s.Errorf("%s: log-prob %d is %v, want %v", what, i, l, want.Logprobs[i])
		}
	}
}

// testTruncated samples only the most likely tokens. The completion must be the greedy one, with the log-probs of the
// whole distribution.
func testTruncated(s *subject) {
	p := s.publish(sampler.Adapter{})
	prompt := s.prompt(0)
	greedy := s.sample(p, sampler.Request{Prompt: prompt, MaxTokens: 6})
	s.checkKnownLogprobs(greedy)
	for _, r := range []sampler.Request{{TopK: 1}, {TopP: 1e-6}, {TopK: 1, TopP: 0.5}} {
		r.Prompt, r.MaxTokens, r.Temperature, r.Seed = prompt, 6, 1, 3
		c := s.sample(p, r)
		s.same(fmt.Sprintf("top-k %d, top-p %g", r.TopK, r.TopP), greedy, c.IDs, c.Logprobs)
		s.checkKnownLogprobs(c)
	}
}

// checkKnownLogprobs fails the test if all log-probs are unknown.
func (s *subject) checkKnownLogprobs(c sampler.Completion) {
	s.Helper()
	if !slices.ContainsFunc(c.Logprobs, func(l float32) bool { return !math.IsNaN(float64(l)) }) {
		s.Errorf("no log-prob is known: %v", c.Logprobs)
	}
}

// testStop stops a greedy completion at a string in its middle.
func testStop(s *subject) {
	p := s.publish(sampler.Adapter{})
	if c, err := s.Backend.Capabilities(s.ctx); err != nil || !c.StopStrings {
		s.Skip("the server has no stop strings", err)
	}
	complete := s.sample(p, sampler.Request{Prompt: s.prompt(0), MaxTokens: longAnswer})
	stop, before := middle(complete.Text)
	c := s.sample(p, sampler.Request{Prompt: s.prompt(0), MaxTokens: longAnswer, Stop: []string{"no such text", stop}})
	if c.Text != before || c.Finish != sampler.FinishStop || len(c.IDs) > len(complete.IDs) {
		s.Fatalf("%q stopped at %q: %q, finish %s, %d ids of %d", complete.Text, stop, c.Text, c.Finish, len(c.IDs),
			len(complete.IDs))
	}
	want := complete
	want.IDs, want.Logprobs = complete.IDs[:len(c.IDs)], complete.Logprobs[:len(c.IDs)]
	s.same("stopped", want, c.IDs, c.Logprobs)
}

// middle returns the character in the middle of a text and the text before its first occurrence.
func middle(text string) (character, before string) {
	runes := []rune(text)
	if len(runes) == 0 {
		return "x", ""
	}
	character = string(runes[len(runes)/2])
	before, _, _ = strings.Cut(text, character)
	return character, before
}

func testParameters(s *subject) {
	p := s.publish(sampler.Adapter{})
	for _, r := range []sampler.Request{
		{TopP: -0.1}, {TopP: 1.1}, {TopP: math.NaN()}, {TopK: -1}, {Stop: []string{""}}, {Temperature: -1},
	} {
		r.Prompt, r.MaxTokens = s.prompt(0), 2
		if _, err := s.Backend.Sample(s.ctx, p, r); err == nil {
			s.Errorf("accepted: temperature %v, top-p %v, top-k %d, stop %q", r.Temperature, r.TopP, r.TopK, r.Stop)
		}
	}
}

func testPublishTwice(s *subject) {
	p := s.publish(sampler.Adapter{})
	if q := s.publish(sampler.Adapter{}); q != p {
		s.Errorf("published again: %+v, want %+v", q, p)
	}
	s.sample(p, sampler.Request{Prompt: s.prompt(0), MaxTokens: 2, Temperature: 1, Seed: 1})
}
