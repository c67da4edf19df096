package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	goodConfig    = `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8}`
	goodTokenizer = `{"model": {}}`
)

// badModels has model folders that cannot be trained.
func badModels() (all []badInput) {
	add := func(name, place string, files map[string]string) {
		in := map[string]string{}
		for file, text := range files {
			in["model/"+file] = text
		}
		all = append(all, badInput{name: name, files: in,
			args: []string{"init", "--model", "model", "-o", "out.toml"}, place: place})
	}
	add("no folder", "model", nil)
	add("no config", "config.json", map[string]string{"tokenizer.json": goodTokenizer})
	for _, text := range []string{"", "{", "[]", "3", "null", "{}", `{"model_type": 3}`, `{"model_type": ""}`,
		`{"model_type": "bert", "architectures": ["BertForMaskedLM"]}`, `{"model_type": "llama", "hidden_size": -1}`,
		`{"model_type": "llama", "hidden_size": 1.5}`, `{"model_type": "llama", "hidden_size": 1e300}`,
		`{"model_type": "llama", "hidden_size": "8"}`, `{"model_type": "llama", "num_hidden_layers": []}`,
		`{"model_type": "llama", "vocab_size": {}}`, `{"model_type": "llama", "text_config": 1}`,
		`{"model_type": "llama", "rope_scaling": "x"}`, `{"model_type": "llama", "quantization_config": 1}`,
		`{"model_type": "x", "num_hidden_layers": 1e9, "num_attention_heads": 1e9, "head_dim": 9}`,
		"version https://git-lfs.github.com/spec/v1\n", "<html>", "\xff\xfe", `{"model_type": "llama"`} {
		add(fmt.Sprintf("config %.40q", text), "config.json", map[string]string{"config.json": text})
	}
	for _, text := range []string{"", "{", "x", "version https://git-lfs.github.com/spec/v1\n", "<html>", "{} {}",
		"\xff"} {
		add(fmt.Sprintf("tokenizer %.40q", text), "tokenizer.json",
			map[string]string{"config.json": goodConfig, "tokenizer.json": text})
	}
	for _, file := range []string{"tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"} {
		add("tokenizer in "+file, "tokenizer.json", map[string]string{"config.json": goodConfig, file: "x"})
	}
	for _, text := range []string{"", "{", "[]", "{}", `{"weight_map": []}`, `{"weight_map": {}}`,
		`{"weight_map": {"a": 1}}`,
		`{"weight_map": {"a": "none.safetensors"}}`, `{"weight_map": {"a": "../x.safetensors"}}`,
		`{"weight_map": {"a": "/etc/passwd"}}`, `{"weight_map": {"a": ""}}`} {
		add(fmt.Sprintf("index %.40q", text), "model", map[string]string{"config.json": goodConfig,
			"tokenizer.json": goodTokenizer, "model.safetensors.index.json": text})
	}
	add("an adapter", "adapter", map[string]string{"adapter_config.json": "{}"})
	add("weights of torch", "safetensors", map[string]string{"config.json": goodConfig,
		"tokenizer.json":    goodTokenizer,
		"pytorch_model.bin": "x"})
	return all
}

// badWeights has damaged safetensors files.
func badWeights() (all []badInput) {
	header := safetensorsText
	for i, text := range []string{"", "x", "\x00\x00\x00\x00\x00\x00\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff",
		"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "\x00\x00\x00\x05\x00\x00\x00\x00{",
		"version https://git-lfs.github.com/spec/v1\n",
		"<!DOCTYPE html>", "PK\x03\x04", header("{", 0), header("[]", 0), header("3", 0), header(`{"a": 1}`, 0),
		header(`{"a": {"shape": "x"}}`, 0), header(`{"a": {"shape": [2], "data_offsets": [0, 8]}}`, 7),
		header(`{"a": {"shape": [-1], "data_offsets": [0, 0]}}`, 0),
		header(`{"a": {"shape": [2], "data_offsets": [8, 0]}}`, 8),
		header(`{"a": {"shape": [2], "data_offsets": [-1, 8]}}`, 8),
		header(`{"a": {"shape": [4294967296, 4294967296], "data_offsets": [0, 8]}}`, 8),
		header(`{"a": {"shape": [2], "data_offsets": [0, 9223372036854775807]}}`, 8),
		header(`{"a": {"shape": [1.5], "data_offsets": [0, 8]}}`, 8)} {
		all = append(all, badInput{name: fmt.Sprint(i), files: map[string]string{"model/config.json": goodConfig,
			"model/tokenizer.json": goodTokenizer, "model/model.safetensors": text},
			args: []string{"init", "--model", "model", "-o", "out.toml"}, place: "model.safetensors"})
	}
	return all
}

// safetensorsText is a file with a header and zeros as data.
func safetensorsText(header string, data int) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + strings.Repeat("\x00", data)
}

// badTensors has folders that transformers would load with random values, and
// quantised ones. Every command that would use them refuses them before it starts
// anything.
func badTensors() (all []badInput) {
	const config = `{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2%s}`
	for _, folder := range incompleteFolders() {
		files := map[string]string{"model/config.json": fmt.Sprintf(config, folder.config),
			"model/tokenizer.json": goodTokenizer, "demos.jsonl": goodDemonstration + "\n"}
		for name, text := range folder.files {
			files["model/"+name] = text
		}
		add := func(args ...string) {
			all = append(all, badInput{name: folder.name + " " + args[0], files: files, args: args, place: folder.place})
		}
		model := []string{"--profile", "cpu", "--set", "model.path=model", "--set", "sampler.backend=vllm"}
		add("init", "--model", "model", "-o", "out.toml")
		add(append([]string{"plan"}, model...)...)
		add(append([]string{"run"}, model...)...)
		add(append([]string{"warmstart", "--data", "demos.jsonl"}, model...)...)
	}
	return all
}

// An incompleteFolder has other keys of config.json, and files of weights.
type incompleteFolder struct {
	name, place, config string
	files               map[string]string
}

func incompleteFolders() []incompleteFolder {
	const one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	const index = "model.safetensors.index.json"
	up, down := "model.layers.%d.mlp.up_proj.weight", "model.layers.%d.mlp.down_proj.weight"
	whole, half := tensorsText(2, up, down), tensorsText(1, up, down)
	listed := `{"weight_map": {"model.norm.weight": "` + one + `"`
	single := func(text string) map[string]string { return map[string]string{"model.safetensors": text} }
	return []incompleteFolder{
		{"a missing tensor", "layers.1.mlp.up_proj.weight", "",
			single(tensorsText(2, down, "model.layers.0.mlp.up_proj.weight"))},
		{"a missing layer", "layer 1 of 2", "", single(half)},
		{"an index of one shard", two, "", map[string]string{one: half, index: listed + "}}"}},
		{"a missing shard", two, "", map[string]string{one: half, index: listed + `, "x": "` + two + `"}}`}},
		{"a wrong shard", "tensor x", "", map[string]string{one: half, two: half,
			index: listed + `, "x": "` + two + `"}}`}},
		{"a shard without an index", one, "", map[string]string{one: whole}},
		{"GPTQ without a word in config.json", "qweight", "", single(tensorsText(2, "model.layers.%d.qweight"))},
		{"an older GPTQ", "quantize_config.json", "", map[string]string{"model.safetensors": whole,
			"quantize_config.json": "{}"}},
		{"MLX", "MLX", `, "quantization": {"bits": 4}`, single(whole)},
		{"a nested block", "awq", `, "text_config": {"quantization_config": {"quant_method": "awq"}}`, single(whole)},
	}
}

// tensorsText is a file with these tensors, each with the number of every layer in place
// of %d, and those outside of the layers.
func tensorsText(layers int, names ...string) string {
	tensors := map[string]bool{"model.embed_tokens.weight": true, "model.norm.weight": true}
	for _, name := range names {
		for i := range layers {
			tensors[strings.ReplaceAll(name, "%d", strconv.Itoa(i))] = true
		}
	}
	var header []string
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		header = append(header, fmt.Sprintf(`%q: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}`, name))
	}
	return safetensorsText("{"+strings.Join(header, ", ")+"}", 4)
}

// badGGUF has files that are no complete model in the format GGUF.
func badGGUF() (all []badInput) {
	le := binary.LittleEndian
	text := func(s string) string { return string(le.AppendUint64(nil, uint64(len(s)))) + s }
	word := func(n uint32) string { return string(le.AppendUint32(nil, n)) }
	long := func(n uint64) string { return string(le.AppendUint64(nil, n)) }
	start := func(version uint32, tensors, keys uint64) string {
		return "GGUF" + word(version) + long(tensors) + long(keys)
	}
	arch := text("general.architecture") + word(8) + text("llama")
	kind := text("general.type") + word(8)
	for i, content := range []string{"", "G", "GGUF", "GGUF\x03", "gguf" + word(3), start(3, 0, 0), start(1, 0, 0),
		start(4, 0, 0), "GGUF\x00\x00\x00\x03" + long(0) + long(0), start(3, 0, 1), start(3, 0, 1<<63), start(3, 0,
			1<<16),
		start(3, 1<<63, 1) + arch, start(3, 1<<20, 1) + arch, start(3, 0, 1) + long(1<<63), start(3, 0,
			1) + long(1<<40),
		start(3, 0, 1) + text("general.architecture") + word(8) + long(1<<62),
		start(3, 0, 1) + text("general.architecture") + word(99), start(3, 0,
			1) + text("general.architecture") + word(4) + word(1),
		start(3, 0, 2) + arch + kind + text("adapter"), start(3, 0, 2) + arch + kind + text("mmproj"),
		start(3, 0, 2) + arch + text("a") + word(9) + word(9) + long(1), start(3, 0,
			2) + arch + text("a") + word(9) + word(8) + long(1<<60),
		start(3, 0, 2) + arch + text("a") + word(9) + word(0) + long(1<<63), start(3, 0,
			2) + arch + text("a") + word(9),
		start(3, 1, 1) + arch + text("w") + word(1) + long(8) + word(0) + long(1<<62),
		start(3, 1, 1) + arch + text("w") + word(99) + long(8), start(3, 1,
			1) + arch + text("w") + word(2) + long(1<<40) + long(1<<40) + word(0) + long(0),
		start(3, 1, 1) + arch + text("w") + word(1) + long(8) + word(9999) + long(0),
		start(3, 1, 1) + arch + text("w") + word(1) + long(8) + word(0) + long(0), // the weights are missing
		"version https://git-lfs.github.com/spec/v1\n", "<!DOCTYPE html>", "PK\x03\x04", "\x1f\x8b", "\x93NUMPY"} {
		all = append(all, badInput{name: fmt.Sprint(i), files: map[string]string{"m.gguf": content}, place: "m.gguf",
			args: []string{"init", "--model", "m.gguf", "--algorithm", "adapt", "-o", "out.toml"}})
	}
	return all
}
