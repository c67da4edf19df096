package llamacpp

import (
	"testing"

	"github.com/empo2/empo2/orchestrator/jsonhttp/faultyhttp"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func TestMisbehavingServers(t *testing.T) {
	const entries = "completion_probabilities"
	answers := []faultyhttp.Fault{
		faultyhttp.Missing("content"), faultyhttp.Set("content", 3), faultyhttp.Set("model", "another"),
		faultyhttp.Missing("model"), faultyhttp.Missing("tokens"), faultyhttp.Shorter("tokens"),
		faultyhttp.Longer("tokens"), faultyhttp.Set("tokens.0", -1), faultyhttp.Set("tokens.0", 1<<30),
		faultyhttp.Set("tokens.0", 1.5), faultyhttp.Set("tokens.0", nil), faultyhttp.Set("tokens.0", 70),
		faultyhttp.Set("stop_type", "tired"), faultyhttp.Missing("stop_type"), faultyhttp.Set("stop_type", "none"),
		faultyhttp.Set("tokens_evaluated", 1), faultyhttp.Missing("tokens_evaluated"), faultyhttp.Missing(entries),
		faultyhttp.Shorter(entries), faultyhttp.Longer(entries), faultyhttp.Set(entries+".0", nil),
		faultyhttp.Set(entries+".0.id", 71), faultyhttp.Set(entries+".0.logprob", 0.5),
		faultyhttp.Set(entries+".0.logprob", nil), faultyhttp.Set(entries+".0.logprob", "NaN"),
		faultyhttp.Set(entries, map[string]any{}), faultyhttp.Set("error", map[string]any{"message": "no"}),
	}
	var proxy *faultyhttp.Proxy
	f := newFakes()
	f.prepare = func(_ int, s *fakeserver.Llama) error {
		proxy = faultyhttp.Open(t, s.URL, func(path string) bool { return path == "/completion" })
		s.URL = proxy.URL
		return nil
	}
	b, _ := f.serve(t, Config{})
	samplertest.RunMisbehaving(t, samplertest.MisbehavingFixture{
		Backend: b, Proxy: func() *faultyhttp.Proxy { return proxy }, Server: "llama-server",
		Answers: answers, Request: testRequest,
	})
}
