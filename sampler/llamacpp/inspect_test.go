package llamacpp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// encodeModel returns a GGUF file with one tensor of 2 × 3 values of a type.
func encodeModel(kind uint32, pairs ...pair) []byte {
	b := encodeGGUF(3, pairs...)
	order.PutUint64(b[8:], 1)
	b = order.AppendUint32(appendText(b, "w"), 2)
	b = order.AppendUint64(order.AppendUint64(b, 2), 3)
	b = order.AppendUint64(order.AppendUint32(b, kind), 0)
	return append(b, make([]byte, 24+32)...)
}

func TestInspect(t *testing.T) {
	content := encodeModel(12, append(baseKeys("llama"), pair{"general.file_type", number(15)},
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

// The tensors say what the header does not say, or says wrongly.
func TestQuantisation(t *testing.T) {
	f := func(kind uint32, want string, pairs ...pair) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "m.gguf")
		if err := os.WriteFile(path, encodeModel(kind, append(baseKeys("llama"), pairs...)...), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := Inspect(path); err != nil || got.Quantisation != want {
			t.Errorf("type %d, %v: %q, %v, want %q", kind, pairs, got.Quantisation, err, want)
		}
	}
	fileType := func(n uint32) pair { return pair{"general.file_type", number(n)} }
	f(3, "Q4_1", fileType(3))
	f(3, "Q4_1")
	f(12, "Q4_K_M", fileType(15))
	f(12, "Q4_K", fileType(0))
	f(0, "F32", fileType(15))
	f(39, "MXFP4", fileType(38))
	f(99, "type 99")
}

func TestRounded(t *testing.T) {
	for quantisation, want := range map[string]string{"": "", "F32": "", "F16": "half precision: F16",
		"Q4_1": "quantised: Q4_1"} {
		if got := rounded(quantisation); (want == "") != (got == "") || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q", quantisation, got)
		}
	}
	for info, want := range map[Info]string{
		{Architecture: "qwen2", Quantisation: "F32"}:  "",
		{Architecture: "gemma2", Quantisation: "F32"}: "the activation of gemma2 (GELU) from a table in half precision",
		{Architecture: "gemma3", Quantisation: "F16"}: "the served base is in half precision: F16",
	} {
		if got := info.rounding(); (want == "") != (got == "") || !strings.HasSuffix(got, want) {
			t.Errorf("%v: %q", info, got)
		}
	}
}
