package orchestrator

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/empo2/empo2/envs/vault"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/manifest"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	stateText = regexp.MustCompile(`Levers: ([a-z, ]+)\. Door \d+ of \d+ is ([a-z]+)\.`)
	adviceRE  = regexp.MustCompile(`(?i)at ([a-z]+) (pull|avoid) ([a-z]+)`)
)

// player is a policy that reads its tips: it pulls the lever that a tip names,
// avoids those that failed, and else pulls any listed lever. Its tips say which
// levers opened a door.
func player(tokenizer *samplertest.Tokenizer) samplertest.Script {
	return func(_ int, prompt []int32) []samplertest.Choice {
		messages := tokenizer.Messages(prompt)
		if strings.Contains(tokenizer.LastUser(prompt), "Write one tip") {
			return []samplertest.Choice{{Text: tipAfter(messages), Weight: 1}}
		}
		advice := map[string]string{} // "door lever" → pull or avoid
		for _, m := range messages {
			for _, a := range adviceRE.FindAllStringSubmatch(m.Text, -1) {
				advice[strings.ToLower(a[1]+" "+a[3])] = strings.ToLower(a[2])
			}
		}
		state := stateText.FindStringSubmatch(tokenizer.LastUser(prompt))
		var choices []samplertest.Choice
		for _, lever := range strings.Split(state[1], ", ") {
			weight := map[string]float64{"pull": 50, "": 1, "avoid": 0.001}[advice[state[2]+" "+lever]]
			choices = append(choices, samplertest.Choice{Text: "pull " + lever, Weight: weight})
		}
		return choices
	}
}

func tipAfter(messages []samplertest.ChatMessage) string {
	var said []string
	for i, m := range messages {
		state := stateText.FindStringSubmatch(m.Text)
		if state == nil || i+2 >= len(messages) {
			continue
		}
		verdict := "avoid"
		if strings.HasPrefix(messages[i+2].Text, "It opens.") {
			verdict = "pull"
		}
		lever := strings.TrimPrefix(messages[i+1].Text, "pull ")
		said = append(said, fmt.Sprintf("at %s %s %s", state[2], verdict, lever))
	}
	return strings.Join(said, ", ") + "."
}

// fakeTrainer counts what it is asked and keeps versions as folders.
type fakeTrainer struct {
	root   string
	policy samplertest.Policy
	fail   func(call string) error // nil: never
	skew   float32                 // added to every log-prob: what a server of low precision looks like
	model  string                  // the model's folder, which adapters name

	mu      sync.Mutex
	version int
	calls   []string
	batches [][]trainerbridge.Row
}

func (f *fakeTrainer) call(name string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = strings.TrimSpace(name + " " + fmt.Sprint(args...))
	f.calls = append(f.calls, name)
	if f.fail != nil {
		return f.fail(name)
	}
	return nil
}

func (f *fakeTrainer) ForwardBackward(_ context.Context, rows []trainerbridge.Row, _ trainerbridge.Loss) (
	trainerbridge.Stats, [][]float32, error) {
	if err := f.call("forward_backward"); err != nil {
		return nil, nil, err
	}
	f.batches = append(f.batches, rows)
	tokens := 0.0
	logprobs := make([][]float32, len(rows))
	for i, r := range rows {
		if err := r.Check(); err != nil {
			return nil, nil, err
		}
		logprobs[i] = r.Logprobs[1:]
		for _, trained := range r.LossMask {
			if trained {
				tokens++
			}
		}
	}
	return trainerbridge.Stats{"tokens:sum": tokens, "ratio:sum": tokens, "entropy:sum": 0}, logprobs, nil
}

func (f *fakeTrainer) OptimStep(context.Context, trainerbridge.Adam) (trainerbridge.Stats, error) {
	return trainerbridge.Stats{"grad_norm:mean": 1}, f.call("optim_step")
}

func (f *fakeTrainer) Forward(_ context.Context, rows []trainerbridge.Row) ([][]float32, error) {
	out := make([][]float32, len(rows))
	for i, r := range rows {
		out[i] = f.policy.Score(f.version, r.Tokens)
		for k := range out[i] {
			out[i][k] += f.skew
		}
	}
	return out, f.call("forward")
}

func (f *fakeTrainer) Save(_ context.Context, version int) error {
	if err := f.call("save", version); err != nil {
		return err
	}
	f.version = version
	return writeFiles(filepath.Join(f.root, "checkpoints", fmt.Sprintf("%06d", version)), manifest.Checkpoint,
		fmt.Sprintf("version %d", version))
}

// writeFiles writes a folder as the trainer does: one file and the manifest.
func writeFiles(dir, list, text string) error {
	return errors.Join(os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "adapter.safetensors"), []byte(text), 0o644),
		manifest.Write(dir, list, nil))
}

func (f *fakeTrainer) Export(_ context.Context, version int) (trainerbridge.Exported, error) {
	dir := filepath.Join(f.root, "adapters", fmt.Sprintf("v%06d", version))
	text := fmt.Sprintf("version %d%s", version, f.model)
	if err := errors.Join(f.call("export", version), writeFiles(dir, manifest.Adapter, text)); err != nil {
		return trainerbridge.Exported{}, err
	}
	m, err := manifest.Verify(dir, manifest.Adapter)
	files := map[string]string{}
	for name, file := range m.Files {
		files[name] = file.SHA256
	}
	return trainerbridge.Exported{Dir: dir, Files: files}, err
}

func (f *fakeTrainer) Restore(_ context.Context, version int) error {
	if err := f.call("restore", version); err != nil {
		return err
	}
	f.version = version
	if version == 0 {
		return nil
	}
	_, err := os.Stat(filepath.Join(f.root, "checkpoints", fmt.Sprintf("%06d", version)))
	return err
}

func (f *fakeTrainer) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == call || strings.HasPrefix(c, call+" ") {
			n++
		}
	}
	return n
}

// demo is the configuration of the demonstration.
func demo() config.Config {
	c, err := config.Source{Profile: config.Demo}.Load()
	if err != nil {
		panic(err)
	}
	return c
}

// small is a configuration that runs in a moment.
func small(change ...func(*config.Config)) config.Config {
	c := demo()
	c.Run.Steps = 3
	c.Env.Vault.Doors, c.Env.Vault.Levers, c.Env.Vault.Score = 3, 4, "partial"
	c.Algorithm.GroupSize = 8
	c.Rollout.MaxTokens, c.Reflection.MaxTokens = 32, 200 // the fake tokenizer's are bytes
	c.Eval.Every, c.Eval.Episodes, c.Eval.FinalEpisodes = 2, 8, 16
	for _, f := range change {
		f(&c)
	}
	return c
}

// world is a run in a folder that can be opened many times.
type world struct {
	t       *testing.T
	dir     string
	config  config.Config
	backend *samplertest.Scripted
	trainer *fakeTrainer
	steps   []StepMetrics
	evals   []Evaluation
	reloads []PromptReload
	phases  []watchdog.Phase
	onStep  func(StepMetrics) // nil: nothing
	// openMemory opens another memory than the bank of tips. Nil: the bank.
	openMemory func(ctx context.Context, db *sql.DB) (memory.Strategy, error)
}

func newWorld(t *testing.T, c config.Config) *world {
	t.Helper()
	if err := config.Check(c); err != nil {
		t.Fatal(err)
	}
	tokenizer := samplertest.NewTokenizer()
	w := &world{t: t, dir: t.TempDir(), config: c, backend: samplertest.NewScripted(tokenizer, player(tokenizer))}
	w.trainer = &fakeTrainer{root: w.dir, policy: w.backend.Policy}
	return w
}

// open wires a loop over the world's folder, as a new process would.
func (w *world) open() (*Loop, func()) {
	w.t.Helper()
	ctx := context.Background()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	led, err := ledger.Open(ctx, w.dir)
	must(err)
	v := w.config.Env.Vault
	family, err := vault.Open(vault.Config{
		Houses: []uint64{1}, Doors: v.Doors, Levers: v.Levers, Score: vault.Score(v.Score),
		TrainVariations: v.TrainVariations, TestVariations: v.TestVariations,
	})
	must(err)
	template, err := chat.NewChatML(ctx, w.backend, w.backend)
	must(err)
	l := &Loop{
		RestartPause: 1, Config: w.config, Family: family, Ledger: led, Backend: w.backend,
		Driver: &rollout.Driver{
			Backend: w.backend, Family: family, ChatTemplate: template, PromptTemplate: prompt.Default(),
			CleanTip: memory.CleanTip,
		},
		Observer: w,
	}
	if w.config.Algorithm.Name != "adapt" {
		l.Trainer = w.trainer
	}
	if w.openMemory != nil {
		must(memory.Migrate(ctx, led.DB()))
		m, err := w.openMemory(ctx, led.DB())
		must(err)
		l.Memory = m
	} else if w.config.Algorithm.Name != "grpo" {
		m := memory.DefaultConfig(embed.NGram{})
		m.K = w.config.Memory.K
		must(memory.Migrate(ctx, led.DB()))
		bank, err := memory.OpenBank(ctx, led.DB(), m)
		must(err)
		l.Memory = bank
	}
	return l, func() { must(led.Close()) }
}

// Phase implements [Observer].
func (w *world) Phase(p watchdog.Phase) { w.phases = append(w.phases, p) }

// Step implements [Observer].
func (w *world) Step(m StepMetrics) {
	w.steps = append(w.steps, m)
	if w.onStep != nil {
		w.onStep(m)
	}
}

// Evaluation implements [Observer].
func (w *world) Evaluation(e Evaluation) { w.evals = append(w.evals, e) }

// Prompt implements [Observer].
func (w *world) Prompt(r PromptReload) { w.reloads = append(w.reloads, r) }

// run opens, runs and closes.
func (w *world) run(ctx context.Context) (Summary, error) {
	l, done := w.open()
	defer done()
	return l.Run(ctx)
}

// stopAfter calls cancel with the n-th request.
type stopAfter struct {
	mu     sync.Mutex
	n      int
	cancel func()
}

func (s *stopAfter) count(context.Context, sampler.Policy, sampler.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n--; s.n == 0 {
		s.cancel()
	}
	return nil
}

// failingCommit is a memory whose part of the transaction fails after it was
// written.
type failingCommit struct {
	memory.Strategy
	err error
}

func (f failingCommit) Commit(ctx context.Context, tx *sql.Tx) (func(bool), error) {
	done, err := f.Strategy.Commit(ctx, tx)
	return done, errors.Join(err, f.err)
}
