package sglang

import (
	"testing"

	"github.com/empo2/empo2/orchestrator/jsonhttp/faultyhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

func TestMisbehavingServers(t *testing.T) {
	const rows = "meta_info.output_token_logprobs"
	answers := []faultyhttp.Fault{
		faultyhttp.Missing("output_ids"), faultyhttp.Shorter("output_ids"), faultyhttp.Longer("output_ids"),
		faultyhttp.Set("output_ids.0", -1), faultyhttp.Set("output_ids.0", 1<<30), faultyhttp.Set("output_ids.0", 1.5),
		faultyhttp.Set("output_ids.0", nil), faultyhttp.Set("output_ids.0", 70), faultyhttp.Missing("meta_info"),
		faultyhttp.Set("meta_info", []any{}), faultyhttp.Missing(rows), faultyhttp.Shorter(rows), faultyhttp.Longer(rows),
		faultyhttp.Set(rows+".0.0", 0.5), faultyhttp.Set(rows+".0.0", nil), faultyhttp.Set(rows+".0.0", "NaN"),
		faultyhttp.Set(rows+".0.1", 71), faultyhttp.Set(rows+".0", []any{}), faultyhttp.Set(rows+".0", nil),
		faultyhttp.Set("meta_info.finish_reason.type", "tired"), faultyhttp.Set("meta_info.finish_reason", nil),
		faultyhttp.Set("meta_info.finish_reason", "stop"), faultyhttp.Set("meta_info.prompt_tokens", 1),
		faultyhttp.Missing("meta_info.prompt_tokens"), faultyhttp.Set("text", 3),
	}
	s := newFake(t)
	p := faultyhttp.Open(t, s.URL, func(path string) bool { return path == "/generate" })
	s.URL = p.URL
	samplertest.RunMisbehaving(t, samplertest.MisbehavingFixture{
		Backend: openFake(t, config(s)), Proxy: func() *faultyhttp.Proxy { return p }, Server: p.URL, Answers: answers,
		Request: sampler.Request{
			Prompt: []int32{samplertest.Start, 50, samplertest.End}, MaxTokens: 20, Temperature: 1, Seed: 7,
		},
	})
}
