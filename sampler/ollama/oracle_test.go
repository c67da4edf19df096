package ollama

import (
	"context"
	"encoding/json"
	"errors"
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

// python is a process that answers a JSON line with a JSON line.
type python struct {
	mu  sync.Mutex
	in  *json.Encoder
	out *json.Decoder
}

func startPython(t testing.TB, script string) *python {
	t.Helper()
	model, err := filepath.Abs(weights)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Getenv("EMPO2_PYTHON"), script, sources, model)
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
	return &python{in: json.NewEncoder(in), out: json.NewDecoder(out)}
}

func (p *python) ask(question, answer any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.in.Encode(question); err != nil {
		return err
	}
	return p.out.Decode(answer)
}

// oracle knows what torch says, and makes random adapters.
type oracle struct{ *python }

func (o oracle) adapter(t testing.TB, version, seed int) sampler.Adapter {
	t.Helper()
	path := filepath.Join(t.TempDir(), "adapter"+strconv.Itoa(seed)+".gguf")
	var none []float32
	if err := o.ask(map[string]any{"adapter": path, "seed": seed}, &none); err != nil {
		t.Fatal(err)
	}
	return sampler.Adapter{Version: version, GGUF: path, Score: o.score(path)}
}

func (o oracle) score(path string) func(context.Context, []int32) ([]float32, error) {
	return func(_ context.Context, tokens []int32) (out []float32, err error) {
		err = o.ask(map[string]any{"adapter": path, "tokens": tokens}, &out)
		return out, err
	}
}

// codec is the trainer's tokenizer.
type codec struct{ *python }

var _ Codec = codec{}

func (c codec) call(op string, body map[string]any) (tokens []int32, token int32, text string, err error) {
	var a struct {
		Tokens []int32
		Token  int32
		Text   string
		Error  string
	}
	if err = c.ask(map[string]any{"op": op, "body": body}, &a); err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a.Tokens, a.Token, a.Text, err
}

func (c codec) Tokenize(_ context.Context, text string) ([]int32, error) {
	ids, _, _, err := c.call("tokenize", map[string]any{"text": text})
	return ids, err
}

func (c codec) TokenizeSpecial(_ context.Context, text string) ([]int32, error) {
	ids, _, _, err := c.call("tokenize", map[string]any{"text": text, "special": true})
	return ids, err
}

func (c codec) ControlToken(_ context.Context, text string) (int32, error) {
	_, id, _, err := c.call("control_token", map[string]any{"text": text})
	return id, err
}

func (c codec) Detokenize(_ context.Context, ids []int32) (string, error) {
	_, _, text, err := c.call("detokenize", map[string]any{"tokens": ids})
	return text, err
}
