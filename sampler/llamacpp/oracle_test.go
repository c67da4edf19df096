package llamacpp

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/empo2/empo2/sampler"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

const (
	sources = "../../trainer_bridge/trainer"
	weights = sources + "/vault_pretraining/weights"
)

// real is what the tests with real servers share. Each test that uses it says
// what is missing if it can't run.
type real struct {
	python, model, gguf string
	oracle              *oracle
}

// newReal finds Python and converts the model. EMPO2_TEST_MODEL names another
// model than the vault's base policy.
func newReal(t testing.TB) *real {
	t.Helper()
	r := &real{python: os.Getenv("EMPO2_PYTHON"), model: os.Getenv("EMPO2_TEST_MODEL")}
	if r.python == "" {
		t.Skip("NOT TESTED with a real llama-server: EMPO2_PYTHON names no interpreter")
	}
	if r.model == "" {
		r.model = weights
	}
	var err error
	if r.model, err = filepath.Abs(r.model); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(r.model, "config.json")); err != nil {
		t.Skip("NOT TESTED with a real llama-server: no model in ", r.model)
	}
	r.gguf, err = EnsureBaseGGUF(t.Context(), converter(r.python), r.model, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func converter(python string) Converter {
	return trainerbridge.Converter{Python: python, SourceDir: sources}
}

func (r *real) config() Config {
	return Config{Python: r.python, BaseGGUF: r.gguf, Slots: 4, ContextPerSlot: 1024, ExactLogprobs: true,
		RequestTimeout: time.Minute}
}

func (r *real) open(t testing.TB, cfg Config) *Backend {
	t.Helper()
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// oracle is a Python process that knows what torch says.
type oracle struct {
	mu  sync.Mutex
	in  *json.Encoder
	out *json.Decoder
}

func (r *real) startOracle(t testing.TB) *oracle {
	t.Helper()
	cmd := exec.Command(r.python, "testdata/oracle.py", sources, r.model)
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &oracle{in: json.NewEncoder(in), out: json.NewDecoder(out)}
}

func (o *oracle) ask(question map[string]any) (answer []float32, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.in.Encode(question); err != nil {
		return nil, err
	}
	err = o.out.Decode(&answer)
	return answer, err
}

// adapter makes a version with random weights.
func (o *oracle) adapter(t testing.TB, version int) sampler.Adapter {
	t.Helper()
	path := filepath.Join(t.TempDir(), "adapter.gguf")
	if _, err := o.ask(map[string]any{"adapter": path, "seed": version}); err != nil {
		t.Fatal(err)
	}
	return sampler.Adapter{Version: version, GGUF: path, Score: o.score(path)}
}

func (o *oracle) score(path string) func(context.Context, []int32) ([]float32, error) {
	return func(_ context.Context, tokens []int32) ([]float32, error) {
		return o.ask(map[string]any{"adapter": path, "tokens": tokens})
	}
}
