package vllm

import (
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/fleet"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/torch"
)

// real is the model of the tests with a real vLLM.
type real struct {
	python, model string
	oracle        *torch.Oracle
}

// newReal needs EMPO2_VLLM, a Python with vLLM, and EMPO2_PYTHON, a Python with the
// trainer's packages. scripts/test-vllm sets both.
func newReal(t testing.TB) *real {
	t.Helper()
	python := os.Getenv("EMPO2_VLLM")
	if python == "" {
		t.Skip("NOT TESTED with a real vLLM: EMPO2_VLLM names no Python that has it (run scripts/test-vllm)")
	}
	trainer := os.Getenv("EMPO2_PYTHON")
	if trainer == "" {
		t.Fatal("EMPO2_PYTHON names no Python with the trainer's packages")
	}
	model, err := filepath.Abs(torch.Weights)
	if err != nil {
		t.Fatal(err)
	}
	return &real{python, model, torch.StartOracle(t, trainer, model)}
}

// launch starts a vLLM on the CPU, which takes one to two minutes.
func (r *real) launch(t testing.TB, change func(*Config)) *Backend {
	t.Helper()
	cfg := Config{
		Launch: LaunchConfig{
			Budget: process.NewBudget(3),
			Python: r.python, Model: r.model, CPU: true, Exact: true, Context: 1024, MaxSeqs: 64, MaxResident: 4,
			Env: []string{"HF_HUB_OFFLINE=1"}, StartTimeout: 5 * time.Minute,
		},
		CacheSalt: true, LoadTimeout: 5 * time.Minute,
		Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel),
	}
	change(&cfg)
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// open connects to a server that was launched.
func (r *real) open(t testing.TB, s *server) *Backend {
	t.Helper()
	b, err := Open(t.Context(), Config{URLs: []string{s.URL()}, APIKey: s.key, CacheSalt: true, Tolerance: 1e-4})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReal needs a real vLLM.
func TestReal(t *testing.T) {
	r := newReal(t)
	b := r.launch(t, func(*Config) {})
	own := b.Servers()[0].(*server)
	t.Run("capabilities are probed", func(t *testing.T) { testCapabilities(t, b) })
	t.Run("requests without the key are refused", func(t *testing.T) { testWithoutKey(t, own) })
	t.Run("conformance", func(t *testing.T) {
		samplertest.Run(t, func(t *testing.T) samplertest.Fixture {
			b := r.open(t, own)
			return samplertest.Fixture{
				Backend: b, Tokenizer: b, Control: b, Tolerance: 1e-4, Prompt: "You are at a door.",
				Adapter: func(t *testing.T, version int) sampler.Adapter { return r.oracle.PEFT(t, version) },
			}
		})
	})
	t.Run("its own tokenizer and chat template", func(t *testing.T) { testServerText(t, r.open(t, own)) })
	t.Run("log-probs equal torch's", func(t *testing.T) {
		if d := r.difference(t, r.open(t, own)); d > 1e-4 {
			t.Errorf("log-probs differ from torch's by %g", d)
		}
	})
	t.Run("the canary", func(t *testing.T) { testCanary(t, r, own) })
	t.Run("versions are swapped under load", func(t *testing.T) { testSwap(t, r, own) })
	t.Run("a killed server is restarted", func(t *testing.T) { testRestart(t, r, b) })
}

func testCapabilities(t *testing.T, b *Backend) {
	c, err := b.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Hints = nil
	want := sampler.Capabilities{
		Server: "vllm", Version: c.Version, IDsIn: true, IDsOut: true, Logprobs: true, LogprobSpace: "raw",
		Adapters: "runtime", AdapterFormat: "peft",
		MaxRank: 16, MaxResident: 4, ContextLength: 1024, Parallel: 64, VocabSize: 512, Replicas: 1, StopStrings: true,
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

// testServerText derives the model's chat template from the server's own renderings, and
// verifies it.
func testServerText(t *testing.T, b *Backend) {
	defer b.Close()
	text := b.ServerText()
	auto, err := chat.NewTemplate(t.Context(), chat.TemplateAuto, b, b, text)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := auto.Extend(t.Context(), nil, chat.NewMessage(chat.RoleUser, "You are at a door."))
	if err != nil {
		t.Fatal(err)
	}
	rendering, err := text.Detokenize(t.Context(), ids)
	if err != nil || !strings.Contains(rendering, "You are at a door.") {
		t.Errorf("%q, %v", rendering, err)
	}
}

// testWithoutKey checks that adapters and completions need the key.
func testWithoutKey(t *testing.T, own *server) {
	withoutKey := fleet.NewHTTP(own.URL(), "", 1)
	defer withoutKey.Close()
	for _, path := range []string{"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/completions"} {
		if err := withoutKey.Call(t.Context(), path, struct{}{}, nil); jsonhttp.Status(err) != http.StatusUnauthorized {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// difference returns the largest difference between the log-probs of the server
// and torch, for the base model and an adapter.
func (r *real) difference(t testing.TB, b *Backend) float64 {
	t.Helper()
	defer b.Close()
	worst, sampled := 0.0, 0
	base := sampler.Adapter{Score: r.oracle.Score("")}
	for _, a := range []sampler.Adapter{base, r.oracle.PEFT(t, 1)} {
		p := publish(t, b, a)
		requests, answers := make([]sampler.Request, 32), make([]sampler.Completion, 32)
		for i := range requests {
			prompt, err := b.Tokenize(t.Context(), "Room "+strconv.Itoa(i*i)+": a lever, a door and a sign.")
			if err != nil {
				t.Fatal(err)
			}
			requests[i] = sampler.Request{Prompt: prompt, MaxTokens: 24, Temperature: 1, Seed: uint64(i)}
		}
		var group errgroup.Group
		for i := range requests {
			group.Go(func() (err error) { answers[i], err = b.Sample(t.Context(), p, requests[i]); return err })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		for i, c := range answers {
			want, err := a.Score(t.Context(), slices.Concat(requests[i].Prompt, c.IDs))
			if err != nil {
				t.Fatal(err)
			}
			for k, l := range c.Logprobs {
				worst = math.Max(worst, math.Abs(float64(l-want[len(requests[i].Prompt)-1+k])))
			}
			sampled += len(c.IDs)
		}
	}
	t.Logf("%d tokens, largest difference %.3g", sampled, worst)
	return worst
}

func testCanary(t *testing.T, r *real, own *server) {
	b := r.open(t, own)
	prompt, err := b.Tokenize(t.Context(), "You are at a door.")
	if err != nil {
		t.Fatal(err)
	}
	var seen []sampler.Canary
	verified := sampler.WithCanary(b, prompt, 1e-4, func(c sampler.Canary) { seen = append(seen, c) })
	defer verified.Close()
	publish(t, verified, sampler.Adapter{Score: r.oracle.Score("")})
	publish(t, verified, r.oracle.PEFT(t, 1))
	publish(t, verified, r.oracle.PEFT(t, 2))
	t.Logf("%+v", seen)
	wrong := r.oracle.PEFT(t, 3)
	wrong.Score = r.oracle.Score("")
	if _, err := verified.Publish(t.Context(), wrong); err == nil {
		t.Error("an adapter with other weights than the trainer's was published")
	}
}

// swaps publishes versions in folders of their own. They share a few sets of
// weights.
func (r *real) swaps(t testing.TB, b *Backend, n, inFlight int) samplertest.SwapConfig {
	t.Helper()
	var made []sampler.Adapter
	for content := range 4 {
		made = append(made, r.oracle.PEFT(t, content+1))
	}
	root := t.TempDir()
	cfg := samplertest.SwapConfig{
		Swaps: n, InFlight: inFlight, MaxTokens: 4, Tolerance: 1e-3,
		Adapter: func(version int) (sampler.Adapter, int) {
			content := version % len(made)
			a := made[content]
			dir := filepath.Join(root, strconv.Itoa(version))
			if err := os.CopyFS(dir, os.DirFS(a.Dir)); err != nil {
				t.Error(err)
			}
			a.Dir = dir
			return a, content
		},
		Resident: func() int {
			adapters, err := b.Servers()[0].Adapters(t.Context())
			if err != nil {
				t.Error(err)
			}
			return len(adapters)
		},
	}
	for i := range 8 {
		prompt, err := b.Tokenize(t.Context(), "You are in room "+strconv.Itoa(i)+". There is a lever, a door and a sign.")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Prompts = append(cfg.Prompts, prompt)
	}
	return cfg
}

func testSwap(t *testing.T, r *real, own *server) {
	b := r.open(t, own)
	defer b.Close()
	got, err := samplertest.Swap(t.Context(), b, r.swaps(t, b, 5, 16))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d requests, first token %v, maximum resident %d, largest difference %.2g", got.Requests, got.First,
		got.Resident, got.MaxDiff)
	if got.Failed != 0 || got.Wrong != 0 || got.Requests == 0 || got.Resident > 4 {
		t.Errorf("%d failed, %d wrong, %d resident: %v", got.Failed, got.Wrong, got.Resident, got.Err)
	}
}

// testRestart kills the server between two requests.
func testRestart(t *testing.T, r *real, b *Backend) {
	a := r.oracle.PEFT(t, 1)
	p := publish(t, b, a)
	prompt, err := b.Tokenize(t.Context(), "You are at a door.")
	if err != nil {
		t.Fatal(err)
	}
	request := sampler.Request{Prompt: prompt, MaxTokens: 8}
	before, err := b.Sample(t.Context(), p, request)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(b.Servers()[0].(*server).Child.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	after, err := b.Sample(t.Context(), p, request)
	if err != nil || !slices.Equal(before.IDs, after.IDs) {
		t.Errorf("%v, was %v: %v", after, before, err)
	}
	if s := b.Stats(); s.Returns != 1 || s.Retries == 0 {
		t.Errorf("%+v", s)
	}
}
