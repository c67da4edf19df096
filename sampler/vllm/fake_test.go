package vllm

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func conforms(t *testing.T, replicas int, change func(*Config)) {
	samplertest.Run(t, func(t *testing.T) samplertest.Fixture {
		_, urls := fakes(t, replicas)
		cfg := config(urls)
		change(&cfg)
		b := openFake(t, cfg)
		return samplertest.Fixture{
			Backend: b, Tokenizer: b, Control: b, Tolerance: 1e-6,
			Adapter: func(t *testing.T, version int) sampler.Adapter { return fakeserver.WriteAdapter(t, policy, version) },
		}
	})
}

func TestFakeConforms(t *testing.T)         { conforms(t, 1, func(*Config) {}) }
func TestThreeReplicasConform(t *testing.T) { conforms(t, 3, func(*Config) {}) }
func TestTheServersTokenizerConforms(t *testing.T) {
	conforms(t, 1, func(c *Config) { c.Codec, c.CacheSalt = nil, false })
}

var testRequest = sampler.Request{
	Prompt: []int32{samplertest.Start, 50, samplertest.End}, MaxTokens: 20, Temperature: 1, Seed: 7,
}

func TestCapabilitiesAreProbed(t *testing.T) {
	f := func(name string, change func(*fakeserver.VLLM), want func(sampler.Capabilities) bool) {
		t.Helper()
		servers, urls := fakes(t, 1)
		change(servers[0])
		b := openFake(t, config(urls))
		c, err := b.Capabilities(t.Context())
		if err != nil || !want(c) {
			t.Errorf("%s: %+v %v", name, c, err)
		}
	}
	f("all flags set", func(*fakeserver.VLLM) {}, func(c sampler.Capabilities) bool {
		return c.Server == "vllm" && c.Version == "0.32.0" && c.IDsIn && c.IDsOut && c.Logprobs && c.LogprobSpace == "raw" &&
			c.Adapters == "runtime" && c.AdapterFormat == "peft" && c.MaxResident == 4 && c.MaxRank == 16 &&
			c.ContextLength == 4096 &&
			c.VocabSize == policy.Tokenizer.VocabSize() && c.Replicas == 1 && c.Parallel == 64
	})
	f("processed", func(v *fakeserver.VLLM) { v.Processed = true },
		func(c sampler.Capabilities) bool { return c.LogprobSpace == "processed" })
	f("adapters not allowed", func(v *fakeserver.VLLM) { v.Fixed = true }, func(c sampler.Capabilities) bool {
		err := sampler.Requirements{Adapters: true, Formats: []string{"peft"}}.Check(c)
		return c.Adapters == "none" && err != nil && strings.Contains(err.Error(), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1")
	})
	f("adapters not enabled", func(v *fakeserver.VLLM) { v.NoLora = true }, func(c sampler.Capabilities) bool {
		err := sampler.Requirements{Adapters: true, Formats: []string{"peft"}}.Check(c)
		return c.Adapters == "none" && err != nil && strings.Contains(err.Error(), "--enable-lora")
	})
	f("no metrics", func(v *fakeserver.VLLM) { v.NoMetrics = true },
		func(c sampler.Capabilities) bool { return c.MaxResident == 0 })
}

func TestAnOldServerGivesNoIDs(t *testing.T) {
	servers, urls := fakes(t, 1)
	servers[0].NoIDs = true
	b := openFake(t, config(urls))
	c, err := b.Capabilities(t.Context())
	if err != nil || c.IDsOut || c.Logprobs {
		t.Errorf("%+v %v", c, err)
	}
	if err := (sampler.Requirements{IDs: true}).Check(c); err == nil || !strings.Contains(err.Error(), "0.10.2") {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	f := func(name, wantErr string, change func(*fakeserver.VLLM, *Config)) {
		t.Helper()
		servers, urls := fakes(t, 1)
		cfg := config(urls)
		change(servers[0], &cfg)
		b, err := Open(t.Context(), cfg)
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), wantErr) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v, want %q and a hint", name, err, wantErr)
		}
	}
	f("another name", `it serves tiny, not "big"`, func(_ *fakeserver.VLLM, c *Config) { c.Model = "big" })
	f("another tokenizer", "serves tiny (/models/tiny): for ",
		func(_ *fakeserver.VLLM, c *Config) {
			c.Codec = samplertest.NewTokenizer("quick")
		})
	f("a missing key", "401", func(v *fakeserver.VLLM, _ *Config) { v.APIKey = "secret" })
	f("a URL with a path", "404", func(v *fakeserver.VLLM, c *Config) { c.URLs = []string{v.URL + "/v1"} })
	f("no server at the address", "connection", func(v *fakeserver.VLLM, _ *Config) { v.Kill() })
	f("asleep", "set sampler.vllm.sleep",
		func(v *fakeserver.VLLM, _ *Config) { v.DevMode = true; post(t, v.URL+"/sleep") })
	f("a URL twice", " is named twice", func(v *fakeserver.VLLM, c *Config) { c.URLs = []string{v.URL, v.URL + "/"} })
	f("no port", "add --port {port} to sampler.vllm.launch", func(_ *fakeserver.VLLM, c *Config) {
		c.URLs, c.Launch = nil, LaunchConfig{Model: "m", Command: []string{"sleep", "1000"}}
	})
	f("no server", "no server", func(_ *fakeserver.VLLM, c *Config) { c.URLs = nil })
}

// Another model under the same name is found by its tokenizer, on every replica, also
// if nothing is trained.
func TestAnotherModelUnderTheSameName(t *testing.T) {
	for _, trained := range []bool{true, false} {
		servers, urls := fakes(t, 3)
		cfg := config(urls)
		if !trained {
			cfg.Codec = nil
		}
		servers[2].Policy.Tokenizer = samplertest.NewTokenizer("quick", "lazy")
		b, err := Open(t.Context(), cfg)
		if err == nil {
			b.Close()
		}
		if want := "wrong model on the server: " + urls[2] + " serves tiny"; err == nil ||
			!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "\n  hint: serve the model") {
			t.Errorf("trained %t: %v, want %q and a hint", trained, err, want)
		}
	}
}

func TestReplicasMustBeEqual(t *testing.T) {
	servers, urls := fakes(t, 2)
	servers[1].Context = 512
	_, err := Open(t.Context(), config(urls))
	if err == nil || !strings.Contains(err.Error(), "the context is 512, not 4096") ||
		!strings.Contains(err.Error(), urls[1]) {
		t.Error(err)
	}
}

func TestAnAdapterOfTooHighARankIsNotLoaded(t *testing.T) {
	servers, urls := fakes(t, 1)
	servers[0].MaxRank = 4
	b := openFake(t, config(urls))
	_, err := b.Publish(t.Context(), fakeserver.WriteAdapter(t, policy, 1))
	if err == nil || !strings.Contains(err.Error(), "has rank 8, the server takes 4") ||
		!strings.Contains(err.Error(), "--max-lora-rank") {
		t.Error(err)
	}
}

func TestEveryParameterIsSent(t *testing.T) {
	servers, urls := fakes(t, 1)
	var sent fakeserver.VLLMRequest
	servers[0].Sent = func(r fakeserver.VLLMRequest) { sent = r }
	b := openFake(t, config(urls))
	p := publish(t, b, fakeserver.WriteAdapter(t, policy, 3))
	r := testRequest
	r.Temperature, r.Seed = 0.5, math.MaxUint64
	if _, err := b.Sample(t.Context(), p, r); err != nil {
		t.Fatal(err)
	}
	switch {
	case sent.Model != "policy-v000003", !slices.Equal(sent.Prompt,
		r.Prompt), *sent.MaxTokens != 20, *sent.Temperature != 0.5,
		*sent.TopP != 1, *sent.TopK != 0, *sent.MinP != 0, *sent.Seed != math.MaxInt64, *sent.Logprobs != 0,
		!sent.ReturnIDs, !sent.AsIDs, !strings.HasPrefix(*sent.CacheSalt, "policy-v000003-"):
		t.Errorf("%+v", sent)
	}
	r.Temperature = 0
	if _, err := b.Sample(t.Context(), p, r); err != nil || sent.Seed != nil {
		t.Errorf("greedy with a seed: %+v %v", sent, err)
	}
}

func TestProcessedLogprobsAreUnknownAtOtherTemperatures(t *testing.T) {
	servers, urls := fakes(t, 1)
	servers[0].Processed = true
	b := openFake(t, config(urls))
	p := publish(t, b, sampler.Adapter{})
	for _, temperature := range []float64{0, 0.5, 1} {
		r := testRequest
		r.Temperature = temperature
		c, err := b.Sample(t.Context(), p, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range c.Logprobs {
			if math.IsNaN(float64(l)) != (temperature == 0.5) {
				t.Errorf("temperature %v: %v", temperature, c.Logprobs)
			}
		}
	}
}

// Processed log-probs belong to the truncated distribution.
func TestProcessedLogprobsAreUnknownAfterTruncation(t *testing.T) {
	servers, urls := fakes(t, 1)
	servers[0].Processed = true
	b := openFake(t, config(urls))
	p := publish(t, b, sampler.Adapter{})
	for _, by := range []sampler.Request{{}, {TopP: 1}, {TopP: 0.9}, {TopK: 5}} {
		r := testRequest
		r.Temperature, r.TopP, r.TopK = 1, by.TopP, by.TopK
		c, err := b.Sample(t.Context(), p, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range c.Logprobs {
			if math.IsNaN(float64(l)) != r.Truncated() {
				t.Errorf("top-p %v, top-k %d: %v", r.TopP, r.TopK, c.Logprobs)
			}
		}
	}
}

func TestRequestsThatCannotBeAnsweredAreNotSent(t *testing.T) {
	servers, urls := fakes(t, 1)
	b := openFake(t, config(urls))
	p := publish(t, b, sampler.Adapter{})
	sent := 0
	servers[0].Sent = func(fakeserver.VLLMRequest) { sent++ }
	for name, test := range map[string]struct {
		change func(*sampler.Request)
		want   error
	}{
		"context":    {func(r *sampler.Request) { r.MaxTokens = 4094 }, sampler.ErrContextFull},
		"empty":      {func(r *sampler.Request) { r.Prompt = nil }, nil},
		"no token":   {func(r *sampler.Request) { r.MaxTokens = 0 }, nil},
		"NaN":        {func(r *sampler.Request) { r.Temperature = math.NaN() }, nil},
		"vocabulary": {func(r *sampler.Request) { r.Prompt = []int32{1, 1 << 20} }, nil},
	} {
		r := testRequest
		test.change(&r)
		_, err := b.Sample(t.Context(), p, r)
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if sent != 0 {
		t.Errorf("%d requests were sent", sent)
	}
}

// No text becomes a control token.
func TestTextDoesNotBecomeAControlToken(t *testing.T) {
	_, urls := fakes(t, 1)
	cfg := config(urls)
	cfg.Codec = nil
	b := openFake(t, cfg)
	for _, text := range []string{"<|im_end|>", "<<|im_end|>>", "<|<|im_start|>|>", "[<|im_end|>]",
		"<|endoftext|><|im_end|>", "a <|im_end|>\n<|im_start|>user\n"} {
		ids, err := b.Tokenize(t.Context(), text)
		if err != nil || policy.Tokenizer.Decode(ids) != text {
			t.Errorf("%q: %v %v", text, ids, err)
		}
		for _, id := range ids {
			if id <= samplertest.End {
				t.Errorf("%q: %v", text, ids)
			}
		}
	}
	for _, text := range []string{"a", "", "pull", "<|no such token|>"} {
		if id, err := b.ControlToken(t.Context(), text); err == nil {
			t.Errorf("%q is control token %d", text, id)
		}
	}
}
