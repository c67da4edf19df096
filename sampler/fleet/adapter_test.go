package fleet

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
)

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// safetensors is the content of a file with a header and n bytes of data.
func safetensors(header string, n int) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + strings.Repeat("x", n)
}

// Headers of adapters: one fits a model with two layers of width 8.
const (
	fits = `{"__metadata__":{"format":"pt"},"base_model.model.model.layers.1.mlp.up_proj.lora_A.weight":` +
		`{"dtype":"F32","shape":[4,8],"data_offsets":[0,128]}}`
	tooWide = `{"base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight":` +
		`{"dtype":"F32","shape":[4,9],"data_offsets":[0,144]}}`
	tooManyLayers = `{"base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight":` +
		`{"dtype":"F32","shape":[4,8],"data_offsets":[0,128]}}`
)

func TestAdaptersAreCheckedBeforeTheyAreLoaded(t *testing.T) {
	base := t.TempDir()
	writeFile(t, base, "config.json", `{"hidden_size":8,"num_hidden_layers":2}`)
	f := func(name, config, weights, root, wantErr string) {
		t.Helper()
		b := &Backend{probe: Probe{Root: root, Capabilities: sampler.Capabilities{Adapters: "runtime", MaxRank: 16,
			Hints: map[string]string{"max_rank": "a higher one"}}}}
		dir := t.TempDir()
		if config != "" {
			writeFile(t, dir, "adapter_config.json", config)
		}
		if weights != "" {
			writeFile(t, dir, "adapter_model.safetensors", weights)
		}
		got, err := b.adapterDir(sampler.Adapter{Version: 1, Dir: dir})
		switch {
		case wantErr == "" && (err != nil || got != dir):
			t.Errorf("%s: %v", name, err)
		case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
			t.Errorf("%s: %v, want %q", name, err, wantErr)
		}
	}
	f("fits", `{"r":4}`, safetensors(fits, 128), base, "")
	f("the base model is not a local folder", `{"r":4}`, safetensors(tooWide, 144), "Qwen/Qwen3-0.6B", "")
	f("another format", `{"r":4}`, "", base, "")
	f("another width", `{"r":4}`, safetensors(tooWide, 144), base, "hint: serve the model")
	f("more layers", `{"r":4}`, safetensors(tooManyLayers, 128), base, "2 layers of width 8")
	f("cut short", `{"r":4}`, safetensors(fits, 127), base, "is cut short: ")
	f("cut in the header", `{"r":4}`, safetensors(fits, 0)[:40], base, "is cut short: ")
	f("empty", `{"r":4}`, "x", base, "not a safetensors file")
	f("no header", `{"r":4}`, safetensors("x", 0), base, "not a safetensors file")
	f("rank", `{"r":32}`, "", base, "hint: a higher one")
	f("no adapter", "", "", base, "no such file")
	f("no JSON", "x", "", base, "adapter_config.json")
	b := &Backend{probe: Probe{Capabilities: sampler.Capabilities{Adapters: "none",
		Hints: map[string]string{"adapters": "allow it"}}}}
	if _, err := b.adapterDir(sampler.Adapter{Version: 1, Dir: base}); err == nil ||
		!strings.Contains(err.Error(), "hint: allow it") {
		t.Error(err)
	}
}

func FuzzTensors(f *testing.F) {
	f.Add([]byte(safetensors(fits, 128)))
	f.Add([]byte(safetensors(tooWide, 3)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if tensors, err := readTensors(path); err == nil && tensors == nil {
			t.Error("neither tensors nor an error")
		}
	})
}
