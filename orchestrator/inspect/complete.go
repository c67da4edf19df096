package inspect

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
)

// completeHint is for a folder without all of its weights. transformers would load it
// with random values in their place.
const completeHint = "\n  hint: download the folder again, with all files"

var shardName = regexp.MustCompile(`^(.*-)\d{5}-of-(\d{5})\.safetensors$`)

// checkShards returns an error if the names of the files say that there are more.
func checkShards(files []string) error {
	for _, file := range files {
		parts := shardName.FindStringSubmatch(file)
		if parts == nil {
			continue
		}
		total, _ := strconv.Atoi(parts[2]) // five digits
		for i := range total {
			name := fmt.Sprintf("%s%05d-of-%s.safetensors", parts[1], i+1, parts[2])
			if !slices.Contains(files, name) {
				return fmt.Errorf("%s is not among its files of weights%s", name, completeHint)
			}
		}
	}
	return nil
}

// uniform are the architectures whose decoder layers all have the same tensors.
var uniform = []string{"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "phi3",
	"smollm3", "olmo2", "granite", "gpt_oss"}

// checkTensors returns an error if the files lack a tensor that the index lists, or
// one that the model must have. index and tensors are by the tensors' names. The
// trainer compares all of them with the model, when it starts.
func (m *Model) checkTensors(index, tensors map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(index)) {
		if _, there := tensors[name]; !there {
			return fmt.Errorf("tensor %s is missing: %s lists it in %s%s", name, weightsIndex, index[name], completeHint)
		}
	}
	prefix, layers := decoderLayers(tensors)
	if len(layers) == 0 {
		return nil // names of another kind
	}
	var kinds []string
	if slices.Contains(uniform, m.Architecture) || m.Shape.Experts > 0 && m.Shape.SparseLayers == m.Shape.Layers {
		kinds = m.tensorKinds(layers)
	}
	for i := range int(m.Shape.Layers) {
		if len(layers[i]) == 0 {
			return fmt.Errorf("layer %d of %d has no tensors%s", i, m.Shape.Layers, completeHint)
		}
		for _, kind := range kinds {
			if !layers[i][kind] {
				return fmt.Errorf("tensor %slayers.%d.%s is missing%s", prefix, i, kind, completeHint)
			}
		}
	}
	for _, name := range []string{"embed_tokens.weight", "norm.weight"} {
		if _, there := tensors[prefix+name]; kinds != nil && !there {
			return fmt.Errorf("tensor %s is missing%s", prefix+name, completeHint)
		}
	}
	return nil
}

// tensorKinds are the names of all tensors of the model's layers, without the layer.
func (m *Model) tensorKinds(layers map[int]map[string]bool) []string {
	all := map[string]bool{}
	for i, kinds := range layers {
		if int64(i) < m.Shape.Layers { // later ones are not the model's, for example those that predict ahead
			maps.Copy(all, kinds)
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// layerTensor matches a tensor of a decoder's layer, not of a vision tower's.
var layerTensor = regexp.MustCompile(`^((?:language_model\.|model\.)*)layers\.(\d{1,6})\.(.+)$`)

// decoderLayers are the tensors of each layer, and the beginning of their names.
func decoderLayers(tensors map[string]string) (prefix string, layers map[int]map[string]bool) {
	layers = map[int]map[string]bool{}
	for name := range tensors {
		parts := layerTensor.FindStringSubmatch(name)
		if parts == nil || parts[3] == "self_attn.rotary_emb.inv_freq" { // older programs stored it
			continue
		}
		i, _ := strconv.Atoi(parts[2]) // six digits at most
		if layers[i] == nil {
			layers[i] = map[string]bool{}
		}
		prefix, layers[i][parts[3]] = parts[1], true
	}
	return prefix, layers
}
