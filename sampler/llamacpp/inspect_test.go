package llamacpp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// encodeModel returns a GGUF file with one tensor of 2 × 3 values in float32.
func encodeModel(pairs ...pair) []byte {
	b := encodeGGUF(3, pairs...)
	order.PutUint64(b[8:], 1)
	b = order.AppendUint32(appendText(b, "w"), 2)
	b = order.AppendUint64(order.AppendUint64(b, 2), 3)
	b = order.AppendUint64(order.AppendUint32(b, 0), 0)
	return append(b, make([]byte, 24+32)...)
}

func TestInspect(t *testing.T) {
	content := encodeModel(append(baseKeys("llama"), pair{"general.file_type", number(15)},
		pair{"tokenizer.ggml.model", text("gpt2")}, pair{"tokenizer.chat_template", text("{{ x }}")})...)
	path := filepath.Join(t.TempDir(), "m.gguf")
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(content)
	got, err := Inspect(path)
	want := Info{Architecture: "llama", Context: 512, Tokenizer: "gpt2", Vocabulary: 2, Quantisation: "Q4_K_M",
		Parameters: 6, ChatTemplate: true}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, cut := range []int{56, 70, len(content) - 10} {
		write(content[:len(content)-cut])
		if _, err := Inspect(path); err == nil || !strings.Contains(err.Error(), "cut short") ||
			!strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%d bytes cut: %v", cut, err)
		}
	}
}
