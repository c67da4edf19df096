package ollama

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ollama/ollama/api"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/vault"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	templates "github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/torch"
)

// tolerance is the allowed difference between the log-probs of Ollama and torch in
// nats. Ollama's keys and values are half floats.
const tolerance = 0.02

// real is an Ollama server with the base policy of the vault.
type real struct {
	url    string
	oracle *torch.Oracle
	codec  codec
}

// TestReal needs the ollama binary (EMPO2_OLLAMA) and Python with the
// trainer's packages (EMPO2_PYTHON).
func TestReal(t *testing.T) {
	r := newReal(t)
	for _, test := range []struct {
		name string
		f    func(*testing.T, *real)
	}{
		{"conformance", testConformance},
		{"log-probs equal torch's", testTorch},
		{"rows of episodes have torch's log-probs", testEpisodes},
		{"the canary", testCanary},
		{"a damaged adapter is refused", testBadAdapter},
		{"versions take turns", testTurns},
		{"versions are replaced", testPublish},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, r) })
	}
}

func newReal(t *testing.T) *real {
	t.Helper()
	binary, python := os.Getenv("EMPO2_OLLAMA"), os.Getenv("EMPO2_PYTHON")
	if binary == "" || python == "" {
		t.Skip("NOT TESTED with a real Ollama: EMPO2_OLLAMA names no binary, or EMPO2_PYTHON no interpreter " +
			"(scripts/test-ollama)")
	}
	r := &real{url: startServer(t, binary)}
	model, err := filepath.Abs(torch.Weights)
	if err != nil {
		t.Fatal(err)
	}
	r.oracle, r.codec = torch.StartOracle(t, python, model), startCodec(t)
	file := torch.ConvertVault(t, python)
	digest, err := adapterDigest(sampler.Adapter{Version: 1, GGUF: file})
	if err != nil {
		t.Fatal(err)
	}
	web, err := newClient(r.url, 1)
	if err != nil {
		t.Fatal(err)
	}
	b := &Backend{client: web}
	defer b.client.close()
	if err := b.upload(t.Context(), file, digest); err != nil {
		t.Fatal(err)
	}
	stream := false
	create := api.CreateRequest{Model: "vault", Files: map[string]string{"vault.gguf": digest}, Stream: &stream}
	if err := b.client.call(t.Context(), "POST", "/api/create", create, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// startServer starts Ollama on a free port with an empty store.
func startServer(t *testing.T, binary string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	cmd := exec.Command(binary, "serve")
	cmd.Env = append(os.Environ(), "OLLAMA_HOST="+address, "OLLAMA_MODELS="+filepath.Join(dir, "models"), "HOME="+dir,
		"OLLAMA_NO_CLOUD=1", "OLLAMA_NUM_PARALLEL=4")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // its runners too
		<-ended
		log.Close()
	})
	c, err := newClient("http://"+address, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := c.call(t.Context(), "GET", "/api/version", nil, nil)
		if err == nil {
			return "http://" + address
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%v\n%s", err, text)
		}
	}
}

func (r *real) open(t *testing.T, change func(*Config)) *Backend {
	t.Helper()
	cfg := Config{URL: r.url, Model: "vault", Codec: r.codec, NumCtx: 1024, Threads: 1, MaxInFlight: 4, Logprobs: true}
	if change != nil {
		change(&cfg)
	}
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (r *real) prompt(t *testing.T, text string) []int32 {
	t.Helper()
	template, err := chat.NewChatML(t.Context(), r.codec, r.codec)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := template.Extend(t.Context(), nil,
		chat.Message{Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: text}}})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func testConformance(t *testing.T, r *real) {
	for _, withCodec := range []bool{true, false} {
		t.Run(fmt.Sprintf("codec %v", withCodec), func(t *testing.T) {
			samplertest.RunText(t, func(t *testing.T) samplertest.TextFixture {
				f := samplertest.TextFixture{
					Adapter: func(t *testing.T, version int) sampler.Adapter { return r.oracle.GGUF(t, version, version) },
					Prompt:  "Levers: jade, bone. Door 1 of 2 is iron.",
				}
				f.Backend = r.open(t, func(c *Config) {
					if !withCodec {
						c.Codec = nil
					}
				})
				if withCodec {
					f.Codec = r.codec
				}
				return f
			})
		})
	}
}

// testTorch compares the log-probs of base model and adapter with torch.
func testTorch(t *testing.T, r *real) {
	b := r.open(t, nil)
	a := r.oracle.GGUF(t, 1, 1)
	scores := map[sampler.Policy]func(context.Context, []int32) ([]float32, error){
		publish(t, b, sampler.Adapter{}): r.oracle.Score(""),
		publish(t, b, a):                 a.Score,
	}
	for p, score := range scores {
		worst, known, all := 0.0, 0, 0
		for seed := range uint64(20) {
			ids := r.prompt(t, fmt.Sprintf("Levers: jade, bone, moss. Door %d of 12 is iron.", seed+1))
			c := sample(t, b, p, sampler.Request{Prompt: ids, MaxTokens: 24, Temperature: 1, Seed: seed})
			want, err := score(t.Context(), slices.Concat(ids, c.IDs))
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range c.Logprobs {
				all++
				if !math.IsNaN(float64(l)) {
					known++
					worst = math.Max(worst, math.Abs(float64(l-want[len(ids)-1+i])))
				}
			}
		}
		t.Logf("%s: %d of %d tokens have a log-prob, largest difference %.2g", p.Name, known, all, worst)
		if worst > tolerance || known < all/2 {
			t.Errorf("%s: %d of %d log-probs known, largest difference %v", p.Name, known, all, worst)
		}
	}
	t.Logf("%+v", b.Stats())
	if s := b.Stats(); s.Longer > 0 || s.Rejoined > 0 || s.Truncated > 0 {
		t.Errorf("the server reads other prompts: %+v", s)
	}
}

// testEpisodes runs episodes of the vault. The log-probs of their rows, with tips,
// must equal torch's: the server then read every prompt as its ids.
func testEpisodes(t *testing.T, r *real) {
	b := r.open(t, nil)
	p := publish(t, b, sampler.Adapter{})
	template, err := chat.NewChatML(t.Context(), chat.CachedTokenizer(r.codec, 1<<10), r.codec)
	if err != nil {
		t.Fatal(err)
	}
	family, err := vault.Open(vault.Config{Houses: []uint64{1}, Doors: 4, Levers: 8, Score: vault.Sparse,
		TrainVariations: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer family.Close()
	tasks, err := family.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	d := rollout.Driver{Backend: b, Family: family, ChatTemplate: template, PromptTemplate: templates.Default()}
	tip := templates.Tip{ID: 1, Text: "At iron pull jade."}
	var tokens int
	var largest float64 // difference of a trained token's log-prob
	for i := range 8 {
		got := d.Run(t.Context(), rollout.EpisodeSpec{
			Task: tasks[i%len(tasks)], Episode: i, Seed: uint64(i), Policy: p, Temperature: 1, MaxTurns: 8, MaxTokens: 16,
			Recall: func(context.Context, rollout.Query) (rollout.Recalled, error) {
				return rollout.Recalled{Tips: []templates.Tip{tip}}, nil
			},
		})
		if got.Failed() {
			t.Fatal(got.Err)
		}
		for _, row := range got.RowsWithTips {
			score, err := r.oracle.Score("")(t.Context(), row.Tokens)
			if err != nil {
				t.Fatal(err)
			}
			for i, trained := range row.LossMask {
				if trained {
					tokens++
					largest = max(largest, math.Abs(float64(row.Logprobs[i]-score[i-1])))
				}
			}
		}
	}
	t.Logf("%d tokens, largest difference %g, %+v", tokens, largest, b.Stats())
	if s := b.Stats(); tokens == 0 || largest > tolerance || s.Rejoined > 0 || s.Respelled > 0 || s.Longer > 0 {
		t.Errorf("%d tokens, largest difference %g, %+v", tokens, largest, s)
	}
}

func testCanary(t *testing.T, r *real) {
	b := r.open(t, nil)
	var outcomes []sampler.Canary
	verified := sampler.WithCanary(b, r.prompt(t, "Levers: jade, bone. Door 1 of 2 is iron."), tolerance,
		func(c sampler.Canary) { outcomes = append(outcomes, c) })
	for version := 1; version <= 2; version++ {
		if _, err := verified.Publish(t.Context(), r.oracle.GGUF(t, version, version)); err != nil {
			t.Error(err)
		}
	}
	other := r.oracle.GGUF(t, 3, 3)
	other.Score = r.oracle.GGUF(t, 3, 4).Score
	if _, err := verified.Publish(t.Context(), other); !errors.Is(err, sampler.ErrCanary) {
		t.Errorf("an adapter with other weights than the trainer's: %v", err)
	}
	t.Logf("%+v", outcomes)
}

// testBadAdapter publishes incomplete adapters and one for another architecture.
func testBadAdapter(t *testing.T, r *real) {
	b := r.open(t, nil)
	good, err := os.ReadFile(r.oracle.GGUF(t, 1, 1).GGUF)
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string]string{
		"cut short":     string(good[:len(good)/2]),
		"for gemma":     strings.Replace(string(good), "qwen2", "gemma", 1),
		"only a header": "GGUF",
	} {
		file := filepath.Join(t.TempDir(), "adapter.gguf")
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := b.Publish(t.Context(), sampler.Adapter{Version: 1, GGUF: file})
		if err == nil {
			t.Errorf("%s: published", what)
		}
		t.Logf("%s: %v", what, err)
	}
	var list api.ListResponse
	if err := b.client.call(t.Context(), "GET", "/api/tags", nil, &list); err != nil || len(list.Models) != 1 {
		t.Errorf("remaining models: %+v, %v", list, err)
	}
	p := publish(t, b, sampler.Adapter{})
	sample(t, b, p, sampler.Request{Prompt: r.prompt(t, "go"), MaxTokens: 4})
}

// testTurns sends requests for two versions at the same time. They must all
// succeed, with few reloads.
func testTurns(t *testing.T, r *real) {
	b := r.open(t, nil)
	policies := []sampler.Policy{publish(t, b, r.oracle.GGUF(t, 1, 1)), publish(t, b, r.oracle.GGUF(t, 2, 2))}
	ids := r.prompt(t, "Levers: jade, bone. Door 1 of 2 is iron.")
	before, start := b.Stats().Swaps, time.Now()
	var group errgroup.Group
	const requests = 64
	for i := range requests {
		group.Go(func() error {
			_, err := b.Sample(t.Context(), policies[i%2],
				sampler.Request{Prompt: ids, MaxTokens: 16, Temperature: 1, Seed: uint64(i)})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	swaps := b.Stats().Swaps - before
	t.Logf("%d requests of two versions in %v, %d reloads", requests, time.Since(start), swaps)
	if swaps > requests/4 {
		t.Errorf("%d reloads", swaps)
	}
}

// testPublish replaces the version ten times and logs the durations.
func testPublish(t *testing.T, r *real) {
	b := r.open(t, nil)
	ids := r.prompt(t, "Levers: jade, bone. Door 1 of 2 is iron.")
	var last sampler.Policy
	var took []time.Duration
	for version := 1; version <= 10; version++ {
		a := r.oracle.GGUF(t, version, version)
		start := time.Now()
		p := publish(t, b, a)
		sample(t, b, p, sampler.Request{Prompt: ids, MaxTokens: 1})
		took = append(took, time.Since(start))
		if version > 1 {
			if err := b.Retire(t.Context(), last); err != nil {
				t.Error(err)
			}
		}
		last = p
	}
	slices.Sort(took)
	t.Logf("from the adapter's file to the first token: median %v, slowest %v", took[len(took)/2], took[len(took)-1])
}
