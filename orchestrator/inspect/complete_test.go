package inspect

import (
	"fmt"
	"strings"
	"testing"
)

// tensorsFile is a safetensors file with these tensors: name, or name:dtype.
func tensorsFile(names ...string) string {
	var tensors []string
	for _, name := range names {
		name, dtype, found := strings.Cut(name, ":")
		if !found {
			dtype = "BF16"
		}
		tensors = append(tensors, fmt.Sprintf(`%q: {"dtype": %q, "shape": [1], "data_offsets": [0, 1]}`, name, dtype))
	}
	return string(safetensorsFile("{"+strings.Join(tensors, ", ")+"}", 1))
}

// twoLayers are the tensors of a model with the prefix, without those that end in
// one of the names left out.
func twoLayers(prefix string, leaveOut ...string) (names []string) {
	all := []string{"embed_tokens.weight", "norm.weight", "layers.2.eh_proj.weight"} // the third layer predicts ahead
	for i := range 2 {
		for _, kind := range []string{"self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"} {
			all = append(all, fmt.Sprintf("layers.%d.%s", i, kind))
		}
	}
next:
	for _, name := range all {
		for _, out := range leaveOut {
			if strings.HasPrefix(name, out) {
				continue next
			}
		}
		names = append(names, prefix+name)
	}
	return names
}

func twoLayerConfig(architecture string) string {
	return fmt.Sprintf(`{"model_type": %q, "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}`,
		architecture)
}

// The files have to contain what the trainer would otherwise fill with random values.
func TestIncompleteWeights(t *testing.T) {
	f := func(says, architecture string, names []string) {
		t.Helper()
		_, err := Folder(write(t, map[string]string{
			"config.json": twoLayerConfig(architecture), "model.safetensors": tensorsFile(names...)}))
		switch {
		case says == "" && err != nil:
			t.Error(err)
		case says != "" && (err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(),
			"hint: download the folder again")):
			t.Errorf("%v, want %q", err, says)
		}
	}
	for _, prefix := range []string{"model.", "", "language_model.model.", "model.language_model."} {
		f("", "llama", twoLayers(prefix))
		f("tensor "+prefix+"layers.0.mlp.down_proj.weight is missing", "llama", twoLayers(prefix, "layers.0.mlp"))
		f("layer 1 of 2 has no tensors", "llama", twoLayers(prefix, "layers.1"))
		f("tensor "+prefix+"embed_tokens.weight is missing", "llama", twoLayers(prefix, "embed"))
		f("tensor "+prefix+"norm.weight is missing", "llama", twoLayers(prefix, "norm"))
	}
	// Layers of other architectures may differ, and a tower has fewer of them.
	f("", "qwen3_next", twoLayers("model.", "layers.0.mlp", "norm"))
	f("layer 0 of 2", "qwen3_next", twoLayers("model.", "layers.0"))
	f("", "gemma3_text", append(twoLayers("model."), "vision_tower.vision_model.encoder.layers.0.q.weight"))
	f("", "llama", append(twoLayers("model."), "model.layers.0.self_attn.rotary_emb.inv_freq"))
}

// The names of files and the index say which others belong to the model.
func TestMissingShards(t *testing.T) {
	f := func(says string, index string, files map[string][]string) {
		t.Helper()
		change := map[string]string{"model.safetensors": "", "config.json": twoLayerConfig("llama"), weightsIndex: index}
		for name, tensors := range files {
			change[name] = tensorsFile(tensors...)
		}
		_, err := Folder(write(t, change))
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says) ||
			!strings.Contains(err.Error(), "download")) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	const one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	first, second := twoLayers("model.", "layers.1"), []string{"model.layers.1.self_attn.q_proj.weight",
		"model.layers.1.mlp.down_proj.weight", "model.layers.1.input_layernorm.weight"}
	both := `{"weight_map": {"model.norm.weight": "` + one + `", "model.layers.1.mlp.down_proj.weight": "` + two + `"}}`
	f("", both, map[string][]string{one: first, two: second})
	f(two+" is missing", both, map[string][]string{one: first})
	f("tensor model.layers.1.mlp.down_proj.weight is missing", both, map[string][]string{one: first, two: {"x"}})
	f(two+" is not among its files", `{"weight_map": {"model.norm.weight": "`+one+`"}}`,
		map[string][]string{one: first, two: second})
	f("it has "+one+", but neither", "", map[string][]string{one: first})
}

// Quantised weights are found without the usual key of config.json.
func TestHiddenQuantisation(t *testing.T) {
	f := func(want string, change map[string]string) {
		t.Helper()
		m, err := Folder(write(t, change))
		if err != nil || m.Quantisation != want {
			t.Errorf("%q, %v, want %q", m.Quantisation, err, want)
		}
	}
	config := func(more string) map[string]string {
		return map[string]string{"config.json": `{"model_type": "llama", ` + more + "}"}
	}
	f("MLX", config(`"quantization": {"bits": 4, "group_size": 64}`))
	f("awq", config(`"text_config": {"quantization_config": {"quant_method": "awq"}}`))
	f("compressed-tensors", config(`"compression_config": {"format": "int"}`))
	f("an unnamed method", config(`"vision_config": {"x": {"quantization_config": {"bits": 8}}}`))
	f("", config(`"quantization_config": null, "quantization": {}`))
	f("quantize_config.json", map[string]string{"quantize_config.json": "{}"})
	for _, name := range []string{"a.qweight:I32", "a.weight_packed:I32", "a.weight:U8", "a.weight:F8_E4M3", "a.W_q:U8"} {
		tensor, _, _ := strings.Cut(name, ":")
		f("the tensor "+tensor, map[string]string{"model.safetensors": tensorsFile("b.weight", name)})
	}
	f("", map[string]string{"model.safetensors": tensorsFile("a.weight:F32", "a.position_ids:I64", "a.bias:U8")})
}
