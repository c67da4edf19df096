package inspect

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// quantisationKeys are the keys of config.json whose block describes quantised
// weights, with the method if the block does not name it.
var quantisationKeys = map[string]string{
	"quantization_config": "an unnamed method", "compression_config": "compressed-tensors", "quantization": "MLX",
}

// configQuantisation is the method of the first such block of a config.json, at any
// depth; empty: there is none.
func configQuantisation(text []byte) string {
	var config any
	if json.Unmarshal(text, &config) != nil {
		return ""
	}
	return blockQuantisation(config)
}

func blockQuantisation(value any) string {
	block, _ := value.(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(block)) {
		inner, _ := block[key].(map[string]any)
		if len(inner) == 0 {
			continue
		}
		if method := quantisationKeys[key]; method != "" {
			if named, _ := inner["quant_method"].(string); named != "" {
				return named
			}
			return method
		}
		if method := blockQuantisation(inner); method != "" {
			return method
		}
	}
	return ""
}

// fileQuantisation looks for quantised weights of which config.json says nothing, as
// in older folders; empty: there are none. tensors are dtypes by name.
func (m *Model) fileQuantisation(tensors map[string]string) string {
	const older = "quantize_config.json" // of GPTQ
	if _, err := os.Stat(filepath.Join(m.Path, older)); err == nil {
		return older
	}
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		if packed(name, tensors[name]) {
			return "the tensor " + name
		}
	}
	return ""
}

// packed reports whether a tensor has weights as small integers. A header without
// dtypes is not judged.
func packed(name, dtype string) bool {
	switch name[strings.LastIndex(name, ".")+1:] {
	case "qweight", "weight_packed", "W_q":
		return true
	case "weight":
		return dtype != "" && !slices.Contains([]string{"F64", "F32", "F16", "BF16"}, dtype)
	}
	return false
}
