package inspect

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const config = `{"model_type": "qwen2", "dtype": "bfloat16", "max_position_embeddings": 2048, "num_hidden_layers": 4,
 "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}`

// safetensors is a file with one tensor of 2 × 3 values.
func safetensors(data int) string { return tensorFile("w", data) }

// tensorFile is a file with one tensor of 2 × 3 values and this name.
func tensorFile(name string, data int) string {
	header := `{"__metadata__": {"format": "pt"}, "` + name +
		`": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}`
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + strings.Repeat("x", data)
}

// write makes a model folder. change replaces files; an empty text removes one.
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
		Shape: Shape{Layers: 4, Hidden: 64, Intermediate: 22016, Heads: 4, KVHeads: 2, HeadDim: 16,
			Vocabulary: 151936},
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

// A chat template is in one of three files, as text or as a list.
func TestChatTemplates(t *testing.T) {
	f := func(has, thinking bool, file, text string) {
		t.Helper()
		m, err := Folder(write(t, map[string]string{"tokenizer_config.json": "{}", file: text}))
		if err != nil || m.ChatTemplate != has || m.Thinking != thinking {
			t.Errorf("%s %s: template %v, thinking %v, %v", file, text, m.ChatTemplate, m.Thinking, err)
		}
	}
	f(false, false, "tokenizer_config.json", "{}")
	f(true, true, "chat_template.jinja", "{{ enable_thinking }}")
	f(true, true, "chat_template.json", `{"chat_template": "{{ enable_thinking }}"}`)
	f(true, false, "tokenizer_config.json", `{"chat_template": [{"name": "default", "template": "x"}]}`)
	f(false, false, "chat_template.json", `{"chat_template": null}`)
	f(false, false, "tokenizer_config.json", `{"chat_template": [{"name": "tool_use", "template": "x"}]}`)
	f(false, false, "additional_chat_templates/tool_use.jinja", "x")
}

// A snapshot of the hub's cache has links to files in another folder.
func TestLinkedSnapshot(t *testing.T) {
	hub := t.TempDir()
	snapshot := filepath.Join(hub, "models--org--name", "snapshots", "0123")
	if err := os.MkdirAll(snapshot, 0o755); err != nil {
		t.Fatal(err)
	}
	blobs := write(t, nil)
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} {
		if err := os.Symlink(filepath.Join(blobs, name), filepath.Join(snapshot, name)); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := Folder(snapshot); err != nil || m.Parameters != 6 || !m.ChatTemplate {
		t.Errorf("%+v, %v", m, err)
	}
	if err := os.Remove(filepath.Join(blobs, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	if _, err := Folder(snapshot); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("a link to nothing: %v", err)
	}
}

// The error for an incomplete folder names what is missing.
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
	f("config.json: the value must be an object, but it is a list", "config.json", "[]")
	f("hidden_size must be a number, but it is a string", "config.json",
		`{"model_type": "llama", "hidden_size": "8"}`)
	f("num_hidden_layers = -2 is not possible", "config.json", `{"model_type": "llama", "num_hidden_layers": -2}`)
	f("head_dim = 1e+12 is not possible", "config.json", `{"model_type": "llama", "head_dim": 1e12}`)
	f("num_hidden_layers = 1.5 is not possible", "config.json", `{"model_type": "llama", "num_hidden_layers": 1.5}`)
	f("BertModel is not a language model", "config.json", `{"model_type": "bert", "architectures": ["BertModel"]}`)
	f("tokenizer.json is not JSON", "tokenizer.json", "{")
	f("git lfs pull", "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
	f("no tokenizer.json", "tokenizer.json", "")
	f("no *.safetensors", "model.safetensors", "")
	f("cut short", "model.safetensors", safetensors(11))
	f("cut short", "model.safetensors", safetensors(0)[:60])
	f("not a safetensors file", "model.safetensors", "PK\x03\x04 and so on")
	dir := write(t, map[string]string{"tokenizer.json": "", "tokenizer.model": "x"})
	if _, err := Folder(dir); err == nil || !strings.Contains(err.Error(), "save_pretrained") {
		t.Errorf("an old tokenizer: %v", err)
	}
	if _, err := Folder(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(),
		"no such file or folder") {
		t.Error(err)
	}
	if _, err := Folder(filepath.Join(dir, "config.json")); err == nil || !strings.Contains(err.Error(),
		"neither a folder nor a GGUF file") {
		t.Error(err)
	}
}

// What is no file is refused, not read: reading a pipe could block for ever.
func TestFoldersWithoutFiles(t *testing.T) {
	for _, name := range []string{"config.json", "tokenizer.json", "model.safetensors"} {
		dir := write(t, map[string]string{name: ""})
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Folder(dir); err == nil || !strings.Contains(err.Error(), "not a file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An index decides which files belong to the model.
func TestShards(t *testing.T) {
	files := map[string]string{
		"model.safetensors":     "",
		"stray.safetensors":     safetensors(12),
		"model-1.safetensors":   tensorFile("a", 12),
		"model-2.safetensors":   tensorFile("b", 12),
		"config.json":           `{"model_type": "llama", "max_position_embeddings": 2048.0}`,
		"tokenizer_config.json": `{"chat_template": null}`,
		weightsIndex: `{"weight_map":
			{"a": "model-1.safetensors", "b": "model-2.safetensors"}}`,
	}
	dir := write(t, files)
	m, err := Folder(dir)
	if err != nil || m.Parameters != 12 || m.Context != 2048 || m.ChatTemplate {
		t.Errorf("%+v, %v", m, err)
	}
	if err := os.Remove(filepath.Join(dir, "model-2.safetensors")); err != nil {
		t.Fatal(err)
	}
	if _, err := Folder(dir); err == nil || !strings.Contains(err.Error(), "model-2.safetensors is missing") ||
		!strings.Contains(err.Error(), "hint: ") {
		t.Error(err)
	}
}

// What a conversion or a trainer may refuse is reported.
func TestQuantisedAndScaledModels(t *testing.T) {
	text := `{"model_type": "llama", "quantization_config": {"quant_method": "gptq"},
		"rope_scaling": {"rope_type": "llama3"}}`
	m, err := Folder(write(t, map[string]string{"config.json": text}))
	if err != nil || m.Quantisation != "gptq" || m.RopeScaling != "llama3" {
		t.Errorf("%+v, %v", m, err)
	}
	text = `{"model_type": "llama", "rope_parameters": {"rope_type": "default"}}`
	m, err = Folder(write(t, map[string]string{"config.json": text}))
	if err != nil || m.Quantisation != "" || m.RopeScaling != "" {
		t.Errorf("%+v, %v", m, err)
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
	smi := func(answer string, err error) func(string, ...string) (string, error) {
		return func(string, ...string) (string, error) { return answer, err }
	}
	wsl := write(t, map[string]string{"dev/dxg": "x"})
	if (Probe{Root: wsl, Run: smi("", errors.New("not found"))}).HasGPU() {
		t.Error("a GPU in WSL2 without a driver")
	}
	if !(Probe{Root: wsl, Run: smi("NVIDIA RTX 4090, 24564\n", nil)}).HasGPU() {
		t.Error("no GPU in WSL2 with a driver")
	}
	if !(Probe{Root: write(t, map[string]string{"dev/kfd": "x"})}).HasGPU() {
		t.Error("no GPU in spite of its driver")
	}
}

// Parameters by the models' cards or reports, in billions.
func TestParametersOfTheShape(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		want         float64
	}{
		{"Qwen3-30B-A3B", `{"model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048,
			"intermediate_size": 6144,
			"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "num_experts": 128,
			"moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": false}`, 30.5},
		{"gpt-oss-20b", `{"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32, "hidden_size": 2880,
			"intermediate_size": 2880}`, 20.9},
		{"gemma-2-2b without tie_word_embeddings", `{"model_type": "gemma2", "num_hidden_layers": 26, "hidden_size": 2304,
			"intermediate_size": 9216, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
			"vocab_size": 256000}`, 2.6},
		{"gemma-3-4b-it as transformers writes it", `{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text",
			"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}}`, 3.9},
		{"Qwen2.5-7B", `{"model_type": "qwen2", "num_hidden_layers": 28, "hidden_size": 3584, "intermediate_size": 18944,
			"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": false}`, 7.6},
	} {
		m, err := Config(write(t, map[string]string{"config.json": tt.config, "model.safetensors": ""}))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := float64(m.Parameters) / 1e9; math.Abs(got-tt.want) > 0.05 {
			t.Errorf("%s: got %.2f billion parameters, want %.1f", tt.name, got, tt.want)
		}
	}
}
