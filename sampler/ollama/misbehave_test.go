package ollama

import (
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/jsonhttp/faultyhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

func TestMisbehavingServers(t *testing.T) {
	answers := []faultyhttp.Fault{
		faultyhttp.Missing("response"), faultyhttp.Set("response", 3), faultyhttp.Set("response", nil),
		faultyhttp.Set("model", "another:latest"), faultyhttp.Missing("model"), faultyhttp.Set("done", false),
		faultyhttp.Missing("done"), faultyhttp.Set("done_reason", "load"), faultyhttp.Set("done_reason", "tired"),
		faultyhttp.Missing("done_reason"), faultyhttp.Set("eval_count", -1), faultyhttp.Set("eval_count", 1<<40),
		faultyhttp.Missing("eval_count"), faultyhttp.Set("prompt_eval_count", -1), faultyhttp.Set("error", "no"),
		faultyhttp.Shorter("logprobs"), faultyhttp.Longer("logprobs"), faultyhttp.Missing("logprobs"),
		faultyhttp.Set("logprobs.0.logprob", 0.5), faultyhttp.Set("logprobs.0.logprob", nil),
		faultyhttp.Set("logprobs.0.logprob", "NaN"), faultyhttp.Set("logprobs.0.token", "x"),
	}
	s := newFake(t, script)
	p := faultyhttp.Open(t, s.URL, func(path string) bool {
		return strings.HasPrefix(path, "/api/generate") || strings.HasPrefix(path, "/api/chat")
	})
	s.URL = p.URL
	samplertest.RunMisbehaving(t, samplertest.MisbehavingFixture{
		Backend: openFake(t, s, func(c *Config) { c.Logprobs = true }),
		Proxy:   func() *faultyhttp.Proxy { return p }, Server: p.URL, Answers: answers,
		Request: sampler.Request{Prompt: prompt(t, s, "go"), MaxTokens: 9, Temperature: 1, Seed: 1},
	})
}
