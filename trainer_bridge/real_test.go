package trainerbridge

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// realTrainer says how to start the Python trainer on the vault's policy.
func realTrainer(t testing.TB) ProcessConfig {
	t.Helper()
	python := os.Getenv("EMPO2_PYTHON")
	if python == "" {
		t.Skip("NOT TESTED: the Python trainer; EMPO2_PYTHON names no interpreter")
	}
	dir, err := ExtractSources(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ProcessConfig{Python: python, SourceDir: dir, Model: VaultModel(dir), Root: t.TempDir(), Threads: 1}
}

func startReal(t testing.TB, cfg ProcessConfig) (*Process, *Client) {
	t.Helper()
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c, err := Dial(t.Context(), ClientConfig{Process: p, Rank: 4, Alpha: 8, Seed: 1, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return p, c
}

func TestRealTrainerTrainsExportsAndRestores(t *testing.T) {
	cfg, ctx := realTrainer(t), t.Context()
	p, c := startReal(t, cfg)
	if p.Ready().VocabSize == 0 || c.Health(ctx) != nil {
		t.Fatalf("ready: %+v, health: %v", p.Ready(), c.Health(ctx))
	}
	row := newRow(1, 10, 11, 12, 13, 14)
	before, err := c.Forward(ctx, []Row{row})
	if err != nil {
		t.Fatal(err)
	}
	copy(row.Logprobs[1:], before[0])
	row.KL = []float32{0, 0.01, 0.01, 0.01, 0.01, 0.01}
	loss := Loss{Name: "empo2", Config: map[string]float64{
		"clip_low_threshold": 0.8, "clip_high_threshold": 1.3, "dual_clip": 10, "logprob_floor": -1e30, "kl_estimator": 0,
	}}
	stats, logprobs, err := c.ForwardBackward(ctx, []Row{row, row}, loss)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]float32{before[0], before[0]}, logprobs, approximately); diff != "" {
		t.Errorf("log-probs of forward_backward and forward differ:\n%s", diff)
	}
	if stats.Tokens() != 10 || math.Abs(stats.MeanRatio()-1) > 1e-5 || stats.KLBase() > 1e-9 || stats.Entropy() <= 0 {
		t.Errorf("on-policy statistics of an untrained adapter: %v", stats)
	}
	if stats, err = c.OptimStep(ctx, adam); err != nil || !(stats.GradNorm() > 0) {
		t.Fatalf("OptimStep = %v, %v", stats, err)
	}
	if err := c.SaveWeights(ctx, "000001"); err != nil {
		t.Fatal(err)
	}
	export, err := c.SaveForSampler(ctx, "v000001")
	if err != nil {
		t.Fatal(err)
	}
	checkExport(t, export.Dir, filepath.Join(cfg.Root, "adapters", "v000001"))
	after, err := c.Forward(ctx, []Row{row})
	if err != nil || cmp.Equal(before, after) {
		t.Fatalf("training changed nothing (%v)", err)
	}

	killTrainer(t, p, c)
	_, c = startReal(t, cfg)
	if err := c.LoadWeights(ctx, "000001", true); err != nil {
		t.Fatal(err)
	}
	restored, err := c.Forward(ctx, []Row{row})
	if diff := cmp.Diff(after, restored); err != nil || diff != "" {
		t.Errorf("restored log-probs (%v) (-want +got):\n%s", err, diff)
	}
	refusals(t, c)
}

func checkExport(t *testing.T, dir, want string) {
	t.Helper()
	if dir != want {
		t.Errorf("exported to %s, want %s", dir, want)
	}
	for _, name := range []string{"adapter_config.json", "adapter_model.safetensors", "adapter.gguf", "manifest.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// killTrainer kills the trainer and checks the error of the next call.
func killTrainer(t *testing.T, p *Process, c *Client) {
	t.Helper()
	syscall.Kill(p.Ready().PID, syscall.SIGKILL)
	_, err := c.OptimStep(t.Context(), adam)
	var exit *ExitError
	if !errors.As(err, &exit) || !errors.Is(err, ErrUnavailable) {
		t.Fatalf("call of a killed trainer: %v", err)
	}
}

// refusals tests the real trainer's errors for bad requests.
func refusals(t *testing.T, c *Client) {
	t.Helper()
	_, _, err := c.ForwardBackward(t.Context(), []Row{newRow(1, 2)}, Loss{Name: "no_such_loss"})
	var refused *RequestError
	if !errors.As(err, &refused) || refused.Category != CategoryUser {
		t.Errorf("unknown loss: %v", err)
	}
	err = c.LoadWeights(t.Context(), "999999", true)
	if !errors.As(err, &refused) || refused.Category != CategoryUser {
		t.Errorf("unknown checkpoint: %v", err)
	}
}

func TestRealTrainerAdaptsTheTargetModules(t *testing.T) {
	p, all := startReal(t, realTrainer(t))
	if got := all.AdaptedModules(); len(got) != 7 {
		t.Errorf("all-linear adapts %v", got)
	}
	f := func(want string, modules ...string) {
		t.Helper()
		c, err := Dial(t.Context(), ClientConfig{Process: p, Rank: 2, Alpha: 4, TargetModules: modules})
		if err != nil {
			t.Errorf("%v: %v", modules, err)
			return
		}
		defer c.Close()
		if got := strings.Join(c.AdaptedModules(), " "); got != want {
			t.Errorf("%v adapts %s; want %s", modules, got, want)
		}
	}
	const attention = "model.layers.*.self_attn."
	f(attention+"q_proj "+attention+"k_proj "+attention+"v_proj "+attention+"o_proj", "attention")
	f(attention+"q_proj model.layers.*.mlp.up_proj", "self_attn.q_proj", "up_proj")
	_, err := Dial(t.Context(), ClientConfig{Process: p, Rank: 2, Alpha: 4, TargetModules: []string{"qkv"}})
	var refused *RequestError
	if !errors.As(err, &refused) || refused.Category != CategoryUser ||
		!strings.Contains(err.Error(), "no module is named 'qkv'") {
		t.Errorf("a module that does not exist: %v", err)
	}
}

func TestRealTrainerThatDoesNotStart(t *testing.T) {
	cfg := realTrainer(t)
	cfg.Model = t.TempDir()
	_, err := Start(t.Context(), cfg)
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Fatal == "" || exit.Hint == "" {
		t.Fatalf("a model folder without a model: %v", err)
	}
}

var approximately = cmp.Comparer(func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-5 })
