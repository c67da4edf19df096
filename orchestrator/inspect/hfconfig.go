package inspect

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// hfConfig has the fields of config.json that are used here. Numbers are float64, because
// some programs write 2048.0.
type hfConfig struct {
	Type          string    `json:"model_type"`
	Architectures []string  `json:"architectures"`
	Dtype         string    `json:"dtype"`
	TorchDtype    string    `json:"torch_dtype"`
	Context       float64   `json:"max_position_embeddings"`
	Layers        float64   `json:"num_hidden_layers"`
	Hidden        float64   `json:"hidden_size"`
	Heads         float64   `json:"num_attention_heads"`
	KVHeads       float64   `json:"num_key_value_heads"`
	HeadDim       float64   `json:"head_dim"`
	Intermediate  float64   `json:"intermediate_size"`
	Vocabulary    float64   `json:"vocab_size"`
	Tied          bool      `json:"tie_word_embeddings"`
	Experts       float64   `json:"num_experts"`       // of a mixture of experts
	LocalExperts  float64   `json:"num_local_experts"` // another name of the same
	ExpertSize    float64   `json:"moe_intermediate_size"`
	SharedExpert  float64   `json:"shared_expert_intermediate_size"`
	SparseStep    float64   `json:"decoder_sparse_step"` // each such layer has experts; 0: all
	DenseLayers   []int     `json:"mlp_only_layers"`     // those that have none
	Rope          *hfRope   `json:"rope_parameters"`
	RopeScaling   *hfRope   `json:"rope_scaling"`
	Quantisation  struct{}  `json:"quantization_config"` // must be an object; see configQuantisation
	Text          *hfConfig `json:"text_config"`         // of models with several modalities
}

type hfRope struct {
	RopeType string `json:"rope_type"`
	Type     string `json:"type"` // the older name
}

// readConfig reads architecture and shape.
func (m *Model) readConfig() error {
	text, err := m.read("config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it has no config.json%s", m.configHint())
	}
	if err != nil {
		return err
	}
	c, err := parseConfig(text)
	if err != nil {
		return fmt.Errorf("config.json: %w%s", safetext.JSONError(err), m.downloadHint(text))
	}
	if c.Type == "" {
		return fmt.Errorf("config.json has no model_type%s", folderHint)
	}
	if !c.writesText() {
		return fmt.Errorf("%s is not a language model that writes text\n  hint: name a model for text generation, "+
			"whose config.json has an architecture such as LlamaForCausalLM", strings.Join(c.Architectures, ", "))
	}
	m.Architecture = c.Type
	m.Quantisation = configQuantisation(text)
	if c.Text != nil {
		c = *c.Text
	}
	return m.readShape(c)
}

// configHint is for a folder without config.json.
func (m *Model) configHint() string {
	if _, err := m.read("adapter_config.json"); err == nil {
		return "\n  hint: it is an adapter: name the folder of its base model, " +
			"or merge both with peft's merge_and_unload"
	}
	return folderHint
}

// readShape takes over the sizes, which must be whole numbers in a range where
// no product overflows.
func (m *Model) readShape(c hfConfig) error {
	for _, n := range []struct {
		key   string
		value float64
	}{
		{"max_position_embeddings", c.Context}, {"num_hidden_layers", c.Layers}, {"hidden_size", c.Hidden},
		{"num_attention_heads", c.Heads}, {"num_key_value_heads", c.KVHeads}, {"head_dim", c.HeadDim},
		{"intermediate_size", c.Intermediate}, {"vocab_size", c.Vocabulary}, {"num_experts", c.Experts},
		{"num_local_experts", c.LocalExperts}, {"moe_intermediate_size", c.ExpertSize},
		{"shared_expert_intermediate_size", c.SharedExpert}, {"decoder_sparse_step", c.SparseStep},
	} {
		if n.value < 0 || n.value > 1e9 || n.value != float64(int64(n.value)) {
			return fmt.Errorf("config.json: %s = %g is not possible\n  hint: download the file again", n.key, n.value)
		}
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = float64(int64(c.Hidden / c.Heads))
	}
	values := 2 * c.Layers * c.KVHeads * c.HeadDim
	if values > 1e9 {
		return fmt.Errorf("config.json: a cache of %g numbers per token is not possible\n"+
			"  hint: download the file again", values)
	}
	m.Shape = Shape{
		Layers: int64(c.Layers), Hidden: int64(c.Hidden), Intermediate: int64(c.Intermediate), Heads: int64(c.Heads),
		KVHeads: int64(c.KVHeads), HeadDim: int64(c.HeadDim), Vocabulary: int64(c.Vocabulary), Tied: c.Tied,
	}
	if experts := cmp.Or(c.Experts, c.LocalExperts); experts > 0 {
		m.Shape.Experts, m.Shape.SparseLayers = int64(experts), c.sparseLayers()
		m.Shape.ExpertSize, m.Shape.SharedExpert = int64(cmp.Or(c.ExpertSize, c.Intermediate)), int64(c.SharedExpert)
	}
	m.Dtype, m.Context, m.CacheValues, m.RopeScaling = c.Dtype, int(c.Context), int64(values), c.scaling()
	if m.Dtype == "" {
		m.Dtype = c.TorchDtype
	}
	return nil
}

// sparseLayers counts the layers of a mixture that have experts, as transformers chooses them for
// Qwen's mixtures. Those without the two keys have experts in all layers.
func (c hfConfig) sparseLayers() int64 {
	step, n := max(1, int(c.SparseStep)), 0
	for layer := range min(int(c.Layers), 1e5) {
		if (layer+1)%step == 0 && !slices.Contains(c.DenseLayers, layer) {
			n++
		}
	}
	return int64(n)
}

// writesText reports whether the model generates text. An empty list of
// architectures is accepted.
func (c hfConfig) writesText() bool {
	return len(c.Architectures) == 0 || slices.ContainsFunc(c.Architectures, func(name string) bool {
		return strings.Contains(name, "CausalLM") || strings.Contains(name, "ConditionalGeneration") ||
			strings.Contains(name, "LMHead")
	})
}

// scaling is the kind of rope scaling; empty: none.
func (c hfConfig) scaling() string {
	for _, r := range []*hfRope{c.Rope, c.RopeScaling} {
		if r == nil {
			continue
		}
		for _, kind := range []string{r.RopeType, r.Type} {
			if kind != "" && kind != "default" {
				return kind
			}
		}
	}
	return ""
}
