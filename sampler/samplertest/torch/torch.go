// Package torch gives tests of real inference servers the trainer's view of a
// model: adapters with random weights, their log-probs as torch computes them,
// and models as GGUF files. It runs Python with the trainer's packages. Start
// with [StartOracle].
package torch

import (
	"context"
	_ "embed"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/empo2/empo2/sampler"
)

// Paths, seen from the folder of a backend.
const (
	Sources = "../../trainer_bridge/trainer"         // the trainer's Python code
	Weights = Sources + "/vault_pretraining/weights" // the base policy of the vault
)

//go:embed oracle.py
var oracleScript string

// A Process is a program that answers one line of JSON with one line of JSON.
// It is safe for concurrent use.
type Process struct {
	mu  sync.Mutex
	in  *json.Encoder
	out *json.Decoder
}

// Start starts a program, which must exit when its stdin is closed. This happens
// at the end of the test.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
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
	return &Process{in: json.NewEncoder(in), out: json.NewDecoder(out)}
}

// Ask sends a question and reads the answer.
func (p *Process) Ask(question, answer any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.in.Encode(question); err != nil {
		return err
	}
	return p.out.Decode(answer)
}

// Read reads a line that the program writes without a question.
func (p *Process) Read(answer any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Decode(answer)
}

// Python is the command that runs a Python program with the trainer's sources
// and a model as its first arguments.
func Python(python string, program []string, model string) *exec.Cmd {
	cmd := exec.Command(python, append(program, Sources, model)...)
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1")
	return cmd
}

// An Oracle computes log-probs with torch.
type Oracle struct{ *Process }

// StartOracle starts an oracle for the model in a folder.
func StartOracle(t testing.TB, python, model string) *Oracle {
	t.Helper()
	return &Oracle{Start(t, Python(python, []string{"-c", oracleScript}, model))}
}

// GGUF writes a version with random weights as a GGUF file. Equal seeds give
// equal weights.
func (o *Oracle) GGUF(t testing.TB, version, seed int) sampler.Adapter {
	t.Helper()
	path := filepath.Join(t.TempDir(), "adapter"+strconv.Itoa(seed)+".gguf")
	o.write(t, path, seed, "gguf")
	return sampler.Adapter{Version: version, GGUF: path, Score: o.Score(path)}
}

// PEFT writes a version with random weights as a PEFT folder.
func (o *Oracle) PEFT(t testing.TB, version int) sampler.Adapter {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v"+strconv.Itoa(version))
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	o.write(t, path, version, "peft")
	return sampler.Adapter{Version: version, Dir: path, Score: o.Score(path)}
}

func (o *Oracle) write(t testing.TB, path string, seed int, format string) {
	t.Helper()
	var none []float32
	if err := o.Ask(map[string]any{"adapter": path, "seed": seed, "format": format}, &none); err != nil {
		t.Fatal(err)
	}
}

// Convert writes the model in a folder as a GGUF file.
func (o *Oracle) Convert(t testing.TB, model, gguf string) {
	t.Helper()
	var none []float32
	if err := o.Ask(map[string]any{"model": model, "gguf": gguf}, &none); err != nil {
		t.Fatal(err)
	}
}

// Score returns the scores of the adapter at path; empty: those of the base
// model.
func (o *Oracle) Score(path string) func(context.Context, []int32) ([]float32, error) {
	return func(_ context.Context, tokens []int32) (scores []float32, err error) {
		err = o.Ask(map[string]any{"adapter": path, "tokens": tokens}, &scores)
		return scores, err
	}
}

// ConvertVault writes the base policy of the vault as a GGUF file and returns
// its path.
func ConvertVault(t testing.TB, python string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vault.gguf")
	convert := exec.Command(python, "-m", "empo2_trainer", "gguf", "--model", Weights, "--out", file)
	convert.Env = append(os.Environ(), "PYTHONPATH="+Sources+":"+os.Getenv("PYTHONPATH"))
	if out, err := convert.CombinedOutput(); err != nil {
		t.Fatalf("convert the model: %v\n%s", err, out)
	}
	return file
}
