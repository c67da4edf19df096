package llamacpp

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var order = binary.LittleEndian

func encodeGGUF(version uint32, pairs ...pair) []byte {
	b := order.AppendUint32([]byte("GGUF"), version)
	b = order.AppendUint64(b, 0)
	b = order.AppendUint64(b, uint64(len(pairs)))
	for _, p := range pairs {
		b = append(appendText(b, p.key), p.value...)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(order.AppendUint64(b, uint64(len(s))), s...)
}

func text(s string) []byte   { return appendText(order.AppendUint32(nil, ggufString), s) }
func number(n uint32) []byte { return order.AppendUint32(order.AppendUint32(nil, 4), n) }
func array(kind uint32, n int, elements ...byte) []byte {
	b := order.AppendUint32(order.AppendUint32(nil, ggufArray), kind)
	return append(order.AppendUint64(b, uint64(n)), elements...)
}

func baseKeys(arch string) []pair {
	return []pair{
		{"general.architecture", text(arch)},
		{"general.type", text("model")},
		{"general.flag", append(order.AppendUint32(nil, 7), 1)},
		{arch + ".context_length", number(512)},
		{"tokenizer.ggml.token_type", array(5, 2, make([]byte, 8)...)},
		{"tokenizer.ggml.tokens", array(ggufString, 2, append(appendText(nil, "a"), appendText(nil, "b")...)...)},
	}
}

func adapterKeys(arch string) []pair {
	return []pair{
		{"general.architecture", text(arch)},
		{"general.type", text("adapter")},
		{"adapter.type", text("lora")},
		{"adapter.lora.alpha", append(order.AppendUint32(nil, 6), 0, 0, 0, 0)},
	}
}

func TestReadGGUF(t *testing.T) {
	got, err := readGGUF(writeGGUF(t, baseKeys("qwen2")...))
	want := gguf{Arch: "qwen2", Type: "model", Context: 512, Vocab: 2}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestGGUFErrors(t *testing.T) {
	good := encodeGGUF(3, baseKeys("qwen2")...)
	for name, f := range map[string]struct {
		content []byte
		wantErr string
	}{
		"empty":        {nil, "cut short"},
		"other format": {[]byte("PK\x03\x04 and what follows in such a file"), "not a GGUF file"},
		"new version":  {encodeGGUF(9), "GGUF version 9"},
		"cut":          {good[:len(good)-3], "cut short"},
		"no keys":      {encodeGGUF(3), "no general.architecture"},
		"adapter":      {encodeGGUF(3, adapterKeys("qwen2")...), "of type adapter, not a model"},
		"no tokenizer": {encodeGGUF(3, baseKeys("qwen2")[:4]...), "no tokenizer"},
		"odd type":     {encodeGGUF(3, pair{"a", number(1)}, pair{"b", []byte{99, 0, 0, 0}}), "unknown value type 99"},
		"long string": {encodeGGUF(3, pair{"general.architecture",
			append(order.AppendUint32(nil, ggufString), order.AppendUint64(nil, 1<<50)...)}), "a string of"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "base.gguf")
			if err := os.WriteFile(path, f.content, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := EnsureBaseGGUF(t.Context(), nil, path, "")
			if err == nil || !strings.Contains(err.Error(), f.wantErr) || !strings.Contains(err.Error(), path) ||
				!strings.Contains(err.Error(), "hint: ") {
				t.Errorf("%v, want %q, the file and a hint", err, f.wantErr)
			}
		})
	}
}

func TestAdapterOfAnotherBase(t *testing.T) {
	base := gguf{Arch: "qwen2"}
	if err := checkAdapter(writeGGUF(t, adapterKeys("qwen2")...), base); err != nil {
		t.Error(err)
	}
	err := checkAdapter(writeGGUF(t, adapterKeys("llama")...), base)
	if err == nil || !strings.Contains(err.Error(), "for llama, the base model is qwen2") {
		t.Error(err)
	}
	err = checkAdapter(writeGGUF(t, baseKeys("qwen2")...), base)
	if err == nil || !strings.Contains(err.Error(), "not a LoRA adapter") {
		t.Error(err)
	}
}

func FuzzReadGGUF(f *testing.F) {
	f.Add(encodeGGUF(3, baseKeys("qwen2")...))
	f.Add(encodeGGUF(2, adapterKeys("llama")...))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if h, err := readGGUF(path); err == nil && h.Arch == "" {
			t.Error("a header without an architecture")
		}
	})
}

func TestAFolderWithoutAModelIsRefused(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		_, err := EnsureBaseGGUF(t.Context(), &copier{}, dir, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "hint: ") {
			t.Error(err)
		}
	}
}

// copier is a converter that copies a file.
type copier struct {
	file        string
	fingerprint string
	conversions int
	err         error
}

func (c *copier) Fingerprint() (string, error) { return c.fingerprint, nil }

func (c *copier) Convert(_ context.Context, _, out string) error {
	if c.conversions++; c.err != nil {
		return c.err
	}
	text, err := os.ReadFile(c.file)
	if err != nil {
		return err
	}
	return os.WriteFile(out, text, 0o644)
}

// A model is converted again only if the model or the converter has changed.
func TestModelsAreConvertedOnce(t *testing.T) {
	c := &copier{file: writeGGUF(t, baseKeys("qwen2")...), fingerprint: "1"}
	model, cache := t.TempDir(), t.TempDir()
	write := func(config string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(model, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	f := func(name string, conversions, files int) {
		t.Helper()
		path, err := EnsureBaseGGUF(t.Context(), c, model, cache)
		seen[path] = true
		if err != nil || c.conversions != conversions || len(seen) != files {
			t.Errorf("%s: %v, %d conversions, %d files", name, err, c.conversions, len(seen))
		}
	}
	write("{}")
	f("first", 1, 1)
	f("again", 1, 1)
	c.fingerprint = "2"
	f("another converter", 2, 2)
	write(`{"vocab_size": 1}`)
	f("another model", 3, 3)
	c.err, c.fingerprint = errors.New("disk full"), "3"
	if _, err := EnsureBaseGGUF(t.Context(), c, model, cache); !errors.Is(err, c.err) ||
		!strings.Contains(err.Error(), model) {
		t.Error(err)
	}
}
