package openai

import (
	"testing"

	"github.com/empo2/empo2/orchestrator/jsonhttp/faultyhttp"
	"github.com/empo2/empo2/sampler/samplertest"
)

func TestMisbehavingServers(t *testing.T) {
	const message = "choices.0.message"
	answers := []faultyhttp.Fault{
		faultyhttp.Missing("choices"), faultyhttp.Set("choices", []any{}), faultyhttp.Longer("choices"),
		faultyhttp.Set("choices", nil), faultyhttp.Set("choices.0", nil), faultyhttp.Missing(message),
		faultyhttp.Set(message, nil), faultyhttp.Set(message, "pull jade"), faultyhttp.Set(message+".content", 3),
		faultyhttp.Set(message+".role", "user"), faultyhttp.Set("model", "another"), faultyhttp.Set("model", 3),
		faultyhttp.Set("choices.0.finish_reason", "tired"), faultyhttp.Set("choices.0.finish_reason", 3),
		faultyhttp.Set("usage", nil), faultyhttp.Missing("usage"), faultyhttp.Set("usage.completion_tokens", -1),
		faultyhttp.Set("usage.completion_tokens", 1<<40), faultyhttp.Set("error", "no"),
		faultyhttp.Set("choices.0.finish_reason", "content_filter"),
	}
	s := newFake(t, script)
	p := faultyhttp.Open(t, s.URL, func(path string) bool { return path == "/v1/chat/completions" })
	s.URL = p.URL
	samplertest.RunMisbehaving(t, samplertest.MisbehavingFixture{
		Backend: openFake(t, s, nil), Proxy: func() *faultyhttp.Proxy { return p }, Server: p.URL,
		Answers: answers, Request: request(),
	})
}
