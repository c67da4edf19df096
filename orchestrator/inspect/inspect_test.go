package inspect

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const config = `{"model_type": "qwen2", "dtype": "bfloat16", "max_position_embeddings": 2048, "num_hidden_layers": 4,
 "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}`

// safetensors is a file with one tensor of 2 × 3 values.
func safetensors(data int) string {
	header := `{"__metadata__": {"format": "pt"}, "w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}`
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + strings.Repeat("x", data)
}

// write makes a folder of files, of which change replaces or (empty) removes some.
func write(t *testing.T, change map[string]string) string {
	t.Helper()
	files := map[string]string{
		"config.json": config, "tokenizer.json": "{}", "model.safetensors": safetensors(12),
		"tokenizer_config.json": `{"chat_template": "{% if enable_thinking %}…"}`,
	}
	for name, text := range change {
		files[name] = text
	}
	dir := t.TempDir()
	for name, text := range files {
		if text == "" {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFolder(t *testing.T) {
	dir := write(t, nil)
	got, err := Folder(dir)
	want := Model{
		Path: dir, Architecture: "qwen2", Dtype: "bfloat16", Context: 2048, Parameters: 6,
		CacheValues: 2 * 4 * 2 * 16, ChatTemplate: true, Thinking: true,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if n := Context(dir); n != 2048 {
		t.Errorf("context %d", n)
	}
	nested := `{"model_type": "gemma3", "text_config": {"torch_dtype": "float16", "max_position_embeddings": 99}}`
	got, err = Folder(write(t, map[string]string{"config.json": nested, "tokenizer_config.json": ""}))
	if err != nil || got.Architecture != "gemma3" || got.Context != 99 || got.Dtype != "float16" || got.ChatTemplate {
		t.Errorf("%+v, %v", got, err)
	}
}

// A folder that cannot be trained is refused with what it lacks.
func TestIncompleteFolders(t *testing.T) {
	f := func(says, file, text string) {
		t.Helper()
		dir := write(t, map[string]string{file: text})
		_, err := Folder(dir)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), dir) ||
			!strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%v, want %q", err, says)
		}
	}
	f("no config.json", "config.json", "")
	f("config.json: ", "config.json", "{")
	f("no model_type", "config.json", "{}")
	f("no tokenizer.json", "tokenizer.json", "")
	f("no *.safetensors", "model.safetensors", "")
	f("cut short", "model.safetensors", safetensors(11))
	f("cut short", "model.safetensors", safetensors(0)[:60])
	f("not a safetensors file", "model.safetensors", "PK\x03\x04 and so on")
	dir := write(t, map[string]string{"tokenizer.json": "", "tokenizer.model": "x"})
	if _, err := Folder(dir); err == nil || !strings.Contains(err.Error(), "save_pretrained") {
		t.Errorf("an old tokenizer: %v", err)
	}
	if _, err := Folder(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "no such folder") {
		t.Error(err)
	}
	if _, err := Folder(filepath.Join(dir, "config.json")); err == nil || !strings.Contains(err.Error(),
		"not a folder") {
		t.Error(err)
	}
}

func TestMachine(t *testing.T) {
	meminfo := "MemTotal:       24000000 kB\nMemFree: 1 kB\n"
	missing := func(string, ...string) (string, error) { return "", errors.New("no such program") }
	f := func(files map[string]string, run func(string, ...string) (string, error), memory int64, gpus ...GPU) {
		t.Helper()
		m := Probe{Root: write(t, files), Run: run}.Machine()
		if diff := cmp.Diff(gpus, m.GPUs); diff != "" || m.Memory != memory || m.Cores < 1 {
			t.Errorf("%d cores, %d bytes\n%s", m.Cores, m.Memory, diff)
		}
	}
	f(map[string]string{"proc/meminfo": meminfo}, missing, 24000000<<10)
	f(map[string]string{"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": "max\n"}, missing, 24000000<<10)
	f(map[string]string{"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": "8589934592\n"}, missing, 8<<30)
	f(map[string]string{"proc/driver/nvidia/gpus/0/information": "Model: \t NVIDIA L4\nIRQ: 1\n"}, missing, 0,
		GPU{Name: "NVIDIA L4"})
	f(map[string]string{"dev/dxg": "x"}, missing, 0)
	f(map[string]string{"usr/lib/wsl/lib/libcuda.so.1": "x"}, missing, 0, GPU{Name: "NVIDIA GPU of WSL2"})
	f(map[string]string{"dev/nvidiactl": "x", "dev/kfd": "x"}, missing, 0, GPU{Name: "NVIDIA GPU"})
	smi := func(name string, _ ...string) (string, error) {
		if name == "nvidia-smi" {
			return "NVIDIA H100 80GB HBM3, 81559\nNVIDIA L4, 23034\n", nil
		}
		return "17179869184\n", nil // sysctl -n hw.memsize
	}
	f(nil, smi, 16<<30, GPU{"NVIDIA H100 80GB HBM3", 81559 << 20}, GPU{"NVIDIA L4", 23034 << 20})
}

func TestHasGPU(t *testing.T) {
	if (Probe{Root: write(t, nil)}).HasGPU() {
		t.Error("a GPU without a driver")
	}
	if !(Probe{Root: write(t, map[string]string{"dev/kfd": "x"})}).HasGPU() {
		t.Error("no GPU in spite of its driver")
	}
}
