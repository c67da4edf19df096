package ollama

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/empo2/empo2/sampler/samplertest/torch"
)

func startCodec(t testing.TB) codec {
	t.Helper()
	model, err := filepath.Abs(torch.Weights)
	if err != nil {
		t.Fatal(err)
	}
	return codec{torch.Start(t, torch.Python(os.Getenv("EMPO2_PYTHON"), []string{"testdata/codec.py"}, model))}
}

// codec is the trainer's tokenizer in a Python process.
type codec struct{ *torch.Process }

var _ Codec = codec{}

func (c codec) call(op string, body map[string]any) (tokens []int32, token int32, text string, err error) {
	var a struct {
		Tokens []int32
		Token  int32
		Text   string
		Error  string
	}
	if err = c.Ask(map[string]any{"op": op, "body": body}, &a); err == nil && a.Error != "" {
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
