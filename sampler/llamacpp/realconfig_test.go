package llamacpp

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest/torch"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// real is the model of the tests with real servers. A test that uses it is
// skipped with a reason if a program or file is missing.
type real struct {
	python, model, gguf string
	oracle              *torch.Oracle
}

// newReal finds Python and converts the model. EMPO2_TEST_MODEL is the folder of
// the model; the default is the base policy of the vault. EMPO2_TEST_LLAMA_SERVER
// replaces the packaged llama-server.
func newReal(t testing.TB) *real {
	t.Helper()
	r := &real{python: os.Getenv("EMPO2_PYTHON"), model: os.Getenv("EMPO2_TEST_MODEL")}
	if r.python == "" {
		t.Skip("NOT TESTED with a real llama-server: EMPO2_PYTHON names no interpreter")
	}
	if r.model == "" {
		r.model = torch.Weights
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
	return trainerbridge.Converter{Python: python, SourceDir: torch.Sources}
}

func (r *real) startOracle(t testing.TB) {
	t.Helper()
	r.oracle = torch.StartOracle(t, r.python, r.model)
}

// adapter makes a version with random weights.
func (r *real) adapter(t testing.TB, version int) sampler.Adapter {
	t.Helper()
	return r.oracle.GGUF(t, version, version)
}

func (r *real) config() Config {
	return Config{Python: r.python, Binary: os.Getenv("EMPO2_TEST_LLAMA_SERVER"), BaseGGUF: r.gguf, Slots: 4,
		ContextPerSlot: 1024, ExactLogprobs: true, RequestTimeout: time.Minute, Budget: process.NewBudget(3)}
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
