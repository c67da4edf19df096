package sglang

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/empo2/empo2/orchestrator/process/processtest"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/fleet"
	"github.com/empo2/empo2/sampler/fleet/fleettest"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var policy = fleettest.Policy()

func config(servers ...*fakeserver.SGLang) Config {
	c := Config{
		Codec: policy.Tokenizer, HealthInterval: 20 * time.Millisecond,
		LoadTimeout: 10 * time.Second, RequestTimeout: 10 * time.Second, Patience: 10 * time.Second,
	}
	for _, s := range servers {
		c.URLs = append(c.URLs, s.URL)
	}
	return c
}

func newFake(t testing.TB) *fakeserver.SGLang {
	s := fakeserver.NewSGLang(policy)
	t.Cleanup(s.Close)
	return s
}

func openFake(t testing.TB, c Config) *Backend {
	t.Helper()
	b, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestFakeConforms(t *testing.T) {
	samplertest.Run(t, func(t *testing.T) samplertest.Fixture {
		b := openFake(t, config(newFake(t), newFake(t)))
		return samplertest.Fixture{
			Backend: b, Tokenizer: b, Control: b, Tolerance: 1e-6,
			Adapter: func(t *testing.T, version int) sampler.Adapter { return fakeserver.WriteAdapter(t, policy, version) },
		}
	})
}

func TestFaultsOfServers(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, c fleettest.Config) fleettest.Fleet {
		// An answer does not name its adapter. Only the canary can detect a wrong one.
		f := fleettest.Fleet{Undetectable: []samplertest.Fault{samplertest.FaultWrongModel}}
		var servers []*fakeserver.SGLang
		for range c.Replicas {
			s := newFake(t)
			servers, f.Engines = append(servers, s), append(f.Engines, &s.Engine)
		}
		c.PrepareAll(f.Engines)
		cfg := config(servers...)
		cfg.OnReturn, cfg.Tolerance = c.OnReturn, c.Tolerance
		c.SetDeadlines(&cfg.RequestTimeout, &cfg.Patience)
		f.Backend = openFake(t, cfg)
		return f
	})
}

func TestCapabilitiesAreProbed(t *testing.T) {
	f := func(name string, change func(*fakeserver.SGLang), want func(sampler.Capabilities) bool) {
		t.Helper()
		s := newFake(t)
		change(s)
		b := openFake(t, config(s))
		c, err := b.Capabilities(t.Context())
		if err != nil || !want(c) {
			t.Errorf("%s: %+v %v", name, c, err)
		}
		p, err := b.Publish(t.Context(), sampler.Adapter{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Sample(t.Context(), p,
			sampler.Request{Prompt: []int32{1, 50, 2}, MaxTokens: 8, Temperature: 1, Seed: 3}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	f("all flags set", func(*fakeserver.SGLang) {}, func(c sampler.Capabilities) bool {
		return c.Server == "sglang" && c.Version == "0.5.9" && c.IDsIn && c.IDsOut && c.Logprobs && c.LogprobSpace == "raw" &&
			c.Adapters == "runtime" && c.MaxRank == 16 && c.MaxResident == 8 && c.ContextLength == 4096 &&
			c.VocabSize == policy.Tokenizer.VocabSize()
	})
	f("after the temperature", func(s *fakeserver.SGLang) { s.Raw = false },
		func(c sampler.Capabilities) bool { return c.LogprobSpace == "processed" })
	f("no adapters", func(s *fakeserver.SGLang) { s.Fixed = true }, func(c sampler.Capabilities) bool {
		err := sampler.Requirements{Adapters: true}.Check(c)
		return c.Adapters == "none" && err != nil && strings.Contains(err.Error(), "--enable-lora")
	})
	f("no seeds", func(s *fakeserver.SGLang) { s.NoSeeds = true }, func(c sampler.Capabilities) bool { return c.IDsOut })
}

// Some versions answer a prompt that is too long with an abort, whose status is 200.
func TestAborts(t *testing.T) {
	f := func(text string, want error) {
		t.Helper()
		var g generated
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			t.Fatal(err)
		}
		err := g.Meta.Finish.aborted()
		if (err == nil) != (want == nil) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	f(`{"meta_info": {"finish_reason": {"type": "stop", "matched": 2}}}`, nil)
	f(`{"meta_info": {"finish_reason": {"type": "abort", "message": "Input length (99 tokens) exceeds the maximum allowed `+
		`length (64 tokens).", "status_code": 400}}}`, sampler.ErrContextFull)
	f(`{"meta_info": {"finish_reason": {"type": "abort", "message": "The input (99 tokens) is longer than the model's `+
		`context length (64 tokens).", "status_code": null}}}`, sampler.ErrContextFull)
	f(`{"meta_info": {"finish_reason": {"type": "abort", "message": "shutting down", "status_code": 503}}}`, fleet.ErrLost)
	f(`{"meta_info": {"finish_reason": {"type": "abort"}}}`, fleet.ErrLost)
}

func TestSleep(t *testing.T) {
	s := newFake(t)
	s.MemorySaver = true
	b := openFake(t, config(s))
	p, err := b.Publish(t.Context(), fakeserver.WriteAdapter(t, policy, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Sleep(t.Context()); err != nil || !s.Asleep() {
		t.Error(err, s.Asleep())
	}
	if err := b.Wake(t.Context()); err != nil || s.Asleep() {
		t.Error(err, s.Asleep())
	}
	if _, err := b.Sample(t.Context(), p, sampler.Request{Prompt: []int32{1, 50, 2}, MaxTokens: 8}); err != nil {
		t.Error(err)
	}
}

// A killed run leaves its server asleep. The next run wakes it, or asks for the
// setting.
func TestOpenWakesAServerThatSleeps(t *testing.T) {
	s := newFake(t)
	s.MemorySaver = true
	b := openFake(t, config(s))
	if err := b.Sleep(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	cfg := config(s)
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "sampler.sglang.sleep") {
		t.Error(err)
	}
	cfg.Sleep = true
	for range 2 { // the second time the server is awake
		b = openFake(t, cfg)
		if _, err := b.Publish(t.Context(), sampler.Adapter{}); err != nil || s.Asleep() {
			t.Error(err, s.Asleep())
		}
		b.Close()
	}
}

func TestOpenRefuses(t *testing.T) {
	f := func(name, wantErr string, change func(*fakeserver.SGLang, *Config)) {
		t.Helper()
		s := newFake(t)
		c := config(s)
		change(s, &c)
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: %v, want %q", name, err, wantErr)
		}
	}
	f("no server", "hint: set sampler.sglang.urls", func(_ *fakeserver.SGLang, c *Config) { c.URLs = nil })
	f("another model", `not "big"`, func(_ *fakeserver.SGLang, c *Config) { c.Model = "big" })
	f("a URL twice", " is named twice", func(s *fakeserver.SGLang, c *Config) { c.URLs = []string{s.URL, s.URL + "/"} })
	f("no port", "hint: add --port {port} to sampler.sglang.launch",
		func(_ *fakeserver.SGLang, c *Config) { c.URLs, c.Launch.Command = nil, []string{"true"} })
	f("no program", "hint: install the program", func(_ *fakeserver.SGLang, c *Config) {
		c.URLs, c.Launch.Command = nil, []string{"/no-such-program", "--port", "{port}"}
	})
}

// Another model under the same name is found by its tokenizer, on every replica. A
// version without the request is left to the canary.
func TestAnotherModelUnderTheSameName(t *testing.T) {
	f := func(noTokenize bool, wantErr string) {
		t.Helper()
		first, second := newFake(t), newFake(t)
		second.Policy.Tokenizer = samplertest.NewTokenizer("quick", "lazy")
		second.NoTokenize = noTokenize
		b, err := Open(t.Context(), config(first, second))
		if err == nil {
			b.Close()
		}
		if got := fmt.Sprint(err); !strings.Contains(got, wantErr) {
			t.Errorf("%s, want %q", got, wantErr)
		}
	}
	f(false, " serves tiny")
	f(true, "<nil>")
}

// A launched server inherits the settings of SGLang, and proxies, but no keys.
func TestEnvironmentOfALaunchedServer(t *testing.T) {
	t.Setenv("SGLANG_X", "1")
	t.Setenv("NAMED", "by the user")
	program, check := processtest.Spy(t, "SGLANG_X=1", "NAMED=by the user")
	cfg := config()
	cfg.Launch = LaunchConfig{Command: []string{program, "{port}"}, Inherit: []string{"NAMED"}}
	if _, err := Open(t.Context(), cfg); err == nil {
		t.Error("the server started")
	}
	check()
}

// Without the trainer's tokenizer the servers' own is used. It renders no chat template.
func TestServerText(t *testing.T) {
	s := newFake(t)
	c := config(s)
	c.Codec = nil
	b, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	text, own := b.ServerText(), policy.Tokenizer
	ids, err := text.TokenizeSpecial(t.Context(), "<|im_start|>pull")
	if diff := cmp.Diff(own.EncodeSpecial("<|im_start|>pull"), ids); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if back, err := text.Detokenize(t.Context(), ids); err != nil || back != "<|im_start|>pull" {
		t.Errorf("%q, %v", back, err)
	}
	if plain, err := b.Tokenize(t.Context(), "a<|im_end|>"); err != nil || own.Decode(plain) != "a<|im_end|>" ||
		slices.Contains(plain, own.EndOfTurn()) {
		t.Errorf("%d, %v", plain, err)
	}
	if _, err := text.Render(t.Context(), nil, true); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}
