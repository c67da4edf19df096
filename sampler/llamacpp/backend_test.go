package llamacpp

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func TestFakeConforms(t *testing.T) {
	samplertest.Run(t, func(t *testing.T) samplertest.Fixture {
		b, err := newFakes().open(t, Config{})
		if err != nil {
			t.Fatal(err)
		}
		return samplertest.Fixture{Backend: b, Tokenizer: b, Control: b, Tolerance: 1e-6,
			Adapter: func(t *testing.T, version int) sampler.Adapter { return fakeAdapter(t, version) }}
	})
}

var testRequest = sampler.Request{
	Prompt: []int32{samplertest.Start, 50, samplertest.End}, MaxTokens: 20, Temperature: 1, Seed: 7,
}

func TestEveryParameterIsSent(t *testing.T) {
	f := newFakes()
	b, p := f.serve(t, Config{})
	r := testRequest
	r.Temperature, r.Seed, r.Session = 0.5, math.MaxUint32, "s"
	if _, err := b.Sample(t.Context(), p, r); err != nil {
		t.Fatal(err)
	}
	requests := f.last().Requests()
	q := requests[len(requests)-1]
	zero, one, half, never, slot, yes, n := 0, 1.0, 0.5, uint32(0), 1, true, 20
	want := fakeserver.LlamaRequest{
		Samplers: []string{"temperature"}, Prompt: []byte(`[1,50,2]`), NPredict: &n, Temperature: &half, TopK: &zero,
		TopP: &one, MinP: new(float64), Seed: &never,
		NProbs: 1, ReturnTokens: true, CachePrompt: &yes, IDSlot: &slot,
	}
	if diff := cmp.Diff(want, q); diff != "" {
		t.Error(diff)
	}
}

func TestBadAnswersAreErrors(t *testing.T) {
	for fault, wantErr := range map[samplertest.Fault]string{
		samplertest.FaultWrongModel: `"policy-v000001" answers in place of policy-v000000`,
		samplertest.FaultWrongIDs:   "do not belong to",
		samplertest.FaultBadID:      "outside the vocabulary",
		samplertest.FaultEmpty:      "0 tokens",
		samplertest.FaultGarbage:    "not an answer of llama-server",
		samplertest.FaultFlood:      "the answer is longer than 1 MiB",
	} {
		t.Run(string(fault), func(t *testing.T) {
			f := newFakes()
			f.prepare = faultAt(1, fault)
			b, p := f.serve(t, Config{})
			_, err := b.Sample(t.Context(), p, testRequest)
			if err == nil || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%v, want %q", err, wantErr)
			}
			if _, err := b.Sample(t.Context(), p, testRequest); err != nil {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}

func TestMissingLogprobsAreNaN(t *testing.T) {
	for fault, at := range map[samplertest.Fault]func(n int) int{
		samplertest.FaultGap: func(int) int { return 0 },
		samplertest.FaultNaN: func(n int) int { return n - 1 },
	} {
		f := newFakes()
		f.prepare = faultAt(1, fault)
		b, p := f.serve(t, Config{})
		c, err := b.Sample(t.Context(), p, testRequest)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range c.Logprobs {
			if math.IsNaN(float64(l)) != (i == at(len(c.IDs))) {
				t.Errorf("%s: log-probs %v", fault, c.Logprobs)
			}
		}
		if b.Stats().Gaps != 1 {
			t.Errorf("%+v", b.Stats())
		}
	}
}

func TestAnotherModelIsNotServed(t *testing.T) {
	f := newFakes()
	f.prepare = func(_ int, s *fakeserver.Llama) error { s.Model = "someone-else"; return nil }
	if _, err := f.open(t, Config{}); err == nil || !strings.Contains(err.Error(), "it serves someone-else") {
		t.Error(err)
	}
}

func TestRequestsThatCannotBeAnsweredAreNotSent(t *testing.T) {
	f := newFakes()
	b, p := f.serve(t, Config{ContextPerSlot: 64})
	sent := len(f.last().Requests())
	for name, test := range map[string]struct {
		change func(*sampler.Request)
		want   error
	}{
		"context":    {func(r *sampler.Request) { r.MaxTokens = 62 }, sampler.ErrContextFull},
		"empty":      {func(r *sampler.Request) { r.Prompt = nil }, nil},
		"no token":   {func(r *sampler.Request) { r.MaxTokens = 0 }, nil},
		"negative":   {func(r *sampler.Request) { r.Temperature = -1 }, nil},
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
	if n := len(f.last().Requests()); n != sent {
		t.Errorf("%d requests were sent", n-sent)
	}
}

func TestAnAdapterOfAnotherBaseIsNotStarted(t *testing.T) {
	f := newFakes()
	b, _ := f.serve(t, Config{})
	_, err := b.Publish(t.Context(), sampler.Adapter{Version: 1, GGUF: writeGGUF(t, adapterKeys("llama")...)})
	if err == nil || !strings.Contains(err.Error(), "hint: ") || len(f.started) != 1 {
		t.Errorf("%v, %d processes", err, len(f.started))
	}
	if _, err := b.Publish(t.Context(), sampler.Adapter{Version: 1}); err == nil ||
		!strings.Contains(err.Error(), "as GGUF") {
		t.Error(err)
	}
}

func TestTokenizeWithoutTheBaseModel(t *testing.T) {
	b, base := newFakes().serve(t, Config{})
	if _, err := b.Publish(t.Context(), fakeAdapter(t, 1)); err != nil {
		t.Fatal(err)
	}
	if err := b.Retire(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	ids, err := b.Tokenize(t.Context(), "pull jade")
	if err != nil || len(ids) != 2 {
		t.Error(ids, err)
	}
	if text, err := b.Detokenize(t.Context(), ids); err != nil || text != "pull jade" {
		t.Error(text, err)
	}
	if p, err := b.Publish(t.Context(), sampler.Adapter{}); err != nil || p != base {
		t.Error(p, err)
	}
}
