package vllm

import (
	"testing"

	"github.com/empo2/empo2/orchestrator/jsonhttp/faultyhttp"
	"github.com/empo2/empo2/sampler/samplertest"
)

func TestMisbehavingServers(t *testing.T) {
	const choice, values = "choices.0", "choices.0.logprobs.token_logprobs"
	answers := []faultyhttp.Fault{
		faultyhttp.Set("model", "another"), faultyhttp.Set("model", nil), faultyhttp.Missing("model"),
		faultyhttp.Missing("choices"), faultyhttp.Set("choices", []any{}), faultyhttp.Longer("choices"),
		faultyhttp.Missing(choice + ".token_ids"), faultyhttp.Shorter(choice + ".token_ids"),
		faultyhttp.Longer(choice + ".token_ids"), faultyhttp.Set(choice+".token_ids.0", -1),
		faultyhttp.Set(choice+".token_ids.0", 1<<30), faultyhttp.Set(choice+".token_ids.0", 1.5),
		faultyhttp.Set(choice+".token_ids.0", nil), faultyhttp.Set(choice+".token_ids.0", 70),
		faultyhttp.Missing(choice + ".logprobs"), faultyhttp.Missing(values), faultyhttp.Shorter(values),
		faultyhttp.Longer(values), faultyhttp.Set(values+".0", 0.5), faultyhttp.Set(values+".0", -1e39),
		faultyhttp.Set(values+".0", "NaN"), faultyhttp.Set(values+".0", nil),
		faultyhttp.Set("choices.0.logprobs.tokens.0", "token_id:71"), faultyhttp.Missing("choices.0.logprobs.tokens"),
		faultyhttp.Set(choice+".finish_reason", "tired"), faultyhttp.Missing(choice + ".finish_reason"),
		faultyhttp.Missing(choice + ".prompt_token_ids"), faultyhttp.Shorter(choice + ".prompt_token_ids"),
		faultyhttp.Set(choice+".text", 3), faultyhttp.Set(choice, nil),
	}
	_, urls := fakes(t, 1)
	p := faultyhttp.Open(t, urls[0], func(path string) bool { return path == "/v1/completions" })
	samplertest.RunMisbehaving(t, samplertest.MisbehavingFixture{
		Backend: openFake(t, config([]string{p.URL})), Proxy: func() *faultyhttp.Proxy { return p },
		Request: testRequest, Server: p.URL, Answers: answers,
	})
}
