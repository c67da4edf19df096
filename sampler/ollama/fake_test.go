package ollama

import (
	"testing"
	"time"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// script has several texts, whose probabilities depend on the version.
func script(version int, _ []int32) []samplertest.Choice {
	return []samplertest.Choice{
		{Text: "pull jade", Weight: 3}, {Text: "pull amber", Weight: 1 + 3*float64(version)},
		{Text: "pull", Weight: 1}, {Text: "look at the corridor", Weight: 2},
	}
}

func newFake(t testing.TB, script samplertest.Script) *fakeserver.Ollama {
	t.Helper()
	s := fakeserver.NewOllama(samplertest.Policy{Tokenizer: samplertest.NewTokenizer(" jade", " amber", "pull"),
		Script: script})
	t.Cleanup(s.Close)
	return s
}

// failing injects faults into the next completions.
type failing struct {
	next chan samplertest.Fault
}

func faultsOf(s *fakeserver.Ollama) *failing {
	f := &failing{make(chan samplertest.Fault, 16)}
	s.Fault = func(int) samplertest.Fault {
		select {
		case fault := <-f.next:
			return fault
		default:
			return ""
		}
	}
	return f
}

func (f *failing) fail(n int, fault samplertest.Fault) {
	for range n {
		f.next <- fault
	}
}

func openFake(t testing.TB, s *fakeserver.Ollama, change func(*Config)) *Backend {
	t.Helper()
	cfg := Config{URL: s.URL, Model: "tiny", Alias: "run one", Codec: s.Policy.Tokenizer, RequestTimeout: time.Minute}
	if change != nil {
		change(&cfg)
	}
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func publish(t testing.TB, b *Backend, a sampler.Adapter) sampler.Policy {
	t.Helper()
	p, err := b.Publish(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sample(t testing.TB, b *Backend, p sampler.Policy, r sampler.Request) sampler.Completion {
	t.Helper()
	c, err := b.Sample(t.Context(), p, r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// prompt returns the ids of a conversation of one turn.
func prompt(t testing.TB, s *fakeserver.Ollama, text string) []int32 {
	t.Helper()
	template, err := chat.NewChatML(t.Context(), s.Policy.Tokenizer, s.Policy.Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := template.Extend(t.Context(), nil, chat.Message{
		Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: text}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}
