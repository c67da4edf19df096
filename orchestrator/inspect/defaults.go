package inspect

import "encoding/json"

// defaults are the values of keys that a config.json leaves out, because transformers
// (5.x, configuration_*.py) does not write values that equal the default of the
// model's class. Architectures that are not listed have none.
var defaults = map[string]hfConfig{
	"qwen2": {
		Layers: 32, Hidden: 4096, Intermediate: 22016, Heads: 32,
		KVHeads: 32, Vocabulary: 151936,
	},
	"qwen3": {
		Layers: 32, Hidden: 4096, Intermediate: 22016, Heads: 32,
		KVHeads: 32, HeadDim: 128, Vocabulary: 151936,
	},
	"qwen3_moe": {
		Layers: 24, Hidden: 2048, Intermediate: 6144, Heads: 32, KVHeads: 4,
		Vocabulary: 151936, Experts: 128, ExpertSize: 768,
	},
	"llama":   {Layers: 32, Hidden: 4096, Intermediate: 11008, Heads: 32, Vocabulary: 32000},
	"mistral": {Layers: 32, Hidden: 4096, Intermediate: 14336, Heads: 32, KVHeads: 8, Vocabulary: 32000},
	"gemma": {
		Layers: 28, Hidden: 3072, Intermediate: 24576, Heads: 16, KVHeads: 16,
		HeadDim: 256, Vocabulary: 256000, Tied: true,
	},
	"gemma2": {
		Layers: 26, Hidden: 2304, Intermediate: 9216, Heads: 8, KVHeads: 4,
		HeadDim: 256, Vocabulary: 256000, Tied: true,
	},
	"gemma3": {Tied: true},
	"gemma3_text": {
		Layers: 26, Hidden: 2304, Intermediate: 9216, Heads: 8, KVHeads: 4,
		HeadDim: 256, Vocabulary: 262208, Tied: true,
	},
	"phi3": {Layers: 32, Hidden: 3072, Intermediate: 8192, Heads: 32, Vocabulary: 32064},
	"smollm3": {
		Layers: 36, Hidden: 2048, Intermediate: 11008, Heads: 16,
		KVHeads: 4, Vocabulary: 128256, Tied: true,
	},
	"olmo2":   {Layers: 32, Hidden: 4096, Intermediate: 11008, Heads: 32, Vocabulary: 50304},
	"granite": {Layers: 32, Hidden: 4096, Intermediate: 11008, Heads: 32, Vocabulary: 32000},
	"gpt_oss": {
		Layers: 36, Hidden: 2880, Intermediate: 2880, Heads: 64, KVHeads: 8,
		HeadDim: 64, Vocabulary: 201088, LocalExperts: 128,
	},
	"qwen3_5_text": {
		Layers: 32, Hidden: 4096, Intermediate: 12288, Heads: 16,
		KVHeads: 4, HeadDim: 256, Vocabulary: 248320,
	},
}

// parseConfig reads a config.json over the defaults of its architecture.
func parseConfig(text []byte) (hfConfig, error) {
	var named hfConfig
	if err := json.Unmarshal(text, &named); err != nil {
		return hfConfig{}, err
	}
	c := defaults[named.Type]
	if named.Text != nil {
		inner := defaults[named.Text.Type]
		c.Text = &inner
	}
	return c, json.Unmarshal(text, &c)
}
