package trainerbridge

import (
	"maps"
	"slices"
)

// architectures are the values of model_type whose adapters the trainer writes as
// GGUF. The value says whether it also converts the base model. The table is that
// of empo2_trainer/gguf_arch.py; a test compares them.
var architectures = map[string]bool{
	"llama": true, "mistral": true, "qwen2": true, "qwen3": true, "qwen3_moe": true, "gemma2": true, "gemma3_text": true,
	"gemma3": true, "phi3": true, "smollm3": true, "olmo2": true, "granite": true, "gpt_oss": false,
}

// ropes are the kinds of rope scaling of a base model that can be converted.
// llama3 needs one of the architectures in llama3Rope.
var (
	ropes      = []string{"", "default", "linear", "yarn", "llama3"}
	llama3Rope = []string{"llama", "mistral", "smollm3"}
)

// WritesAdapters reports whether the trainer writes adapters of an architecture as
// GGUF, and lists those of which it does.
func WritesAdapters(architecture string) (ok bool, known []string) {
	_, ok = architectures[architecture]
	return ok, slices.Sorted(maps.Keys(architectures))
}

// ConvertsBase reports whether the trainer converts base models of an architecture
// with this rope scaling (empty: none) to GGUF, and lists the architectures of
// which it does. The trainer makes more checks during the conversion.
func ConvertsBase(architecture, rope string) (ok bool, known []string) {
	for name, base := range architectures {
		if base {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	ok = architectures[architecture] && slices.Contains(ropes, rope) &&
		(rope != "llama3" || slices.Contains(llama3Rope, architecture))
	return ok, known
}
