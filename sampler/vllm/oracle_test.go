package vllm

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/empo2/empo2/sampler"
)

const (
	sources = "../../trainer_bridge/trainer"
	weights = sources + "/vault_pretraining/weights"
)

// oracle is a Python process that knows what torch says.
type oracle struct {
	mu  sync.Mutex
	in  *json.Encoder
	out *json.Decoder
}

// startOracle needs Python with the trainer's packages.
func startOracle(t testing.TB, python, model string) *oracle {
	t.Helper()
	cmd := exec.Command(python, "testdata/oracle.py", sources, model)
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
	path := filepath.Join(t.TempDir(), "v"+strconv.Itoa(version))
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := o.ask(map[string]any{"adapter": path, "seed": version}); err != nil {
		t.Fatal(err)
	}
	return sampler.Adapter{Version: version, Dir: path, Score: o.score(path)}
}

func (o *oracle) score(path string) func(context.Context, []int32) ([]float32, error) {
	return func(_ context.Context, tokens []int32) ([]float32, error) {
		return o.ask(map[string]any{"adapter": path, "tokens": tokens})
	}
}
