// Package inspect finds out what a model folder and a machine are, without
// loading the one or installing anything on the other.
package inspect

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Model is a folder in Hugging Face format.
type Model struct {
	Path         string // absolute
	Architecture string // model_type of config.json, for example "qwen2"
	Dtype        string // of the weights on disk, for example "bfloat16"
	Context      int    // tokens that it was trained with; 0: unknown
	Parameters   int64  // 0: unknown
	// CacheValues are the numbers that a key-value cache holds for one token.
	CacheValues int64
	// ChatTemplate: the tokenizer has one. Thinking: it takes the argument
	// enable_thinking.
	ChatTemplate, Thinking bool
}

// folderHint says what a model folder must hold.
const folderHint = "\n  hint: name a folder in Hugging Face format: config.json, tokenizer.json, *.safetensors"

// hfConfig is what matters here of config.json.
type hfConfig struct {
	Type       string    `json:"model_type"`
	Dtype      string    `json:"dtype"`
	TorchDtype string    `json:"torch_dtype"`
	Context    int       `json:"max_position_embeddings"`
	Layers     int64     `json:"num_hidden_layers"`
	Hidden     int64     `json:"hidden_size"`
	Heads      int64     `json:"num_attention_heads"`
	KVHeads    int64     `json:"num_key_value_heads"`
	HeadDim    int64     `json:"head_dim"`
	Text       *hfConfig `json:"text_config"` // of models with several modalities
}

// Folder reads a model folder. It refuses one that a trainer cannot load.
func Folder(path string) (Model, error) {
	m, err := folder(path)
	if err != nil {
		return m, fmt.Errorf("model %s: %w", path, err)
	}
	return m, nil
}

func folder(path string) (m Model, err error) {
	if m.Path, err = filepath.Abs(path); err != nil {
		return m, err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return m, fmt.Errorf("no such folder%s", folderHint)
	case !info.IsDir():
		return m, fmt.Errorf("not a folder%s", folderHint)
	}
	if err := m.readConfig(); err != nil {
		return m, err
	}
	if err := m.readTokenizer(); err != nil {
		return m, err
	}
	return m, m.readWeights()
}

// Context is how many tokens the model of a folder was trained with; 0 if its
// config.json does not say so.
func Context(path string) int {
	m := Model{Path: path}
	if err := m.readConfig(); err != nil {
		return 0
	}
	return m.Context
}

// readConfig reads architecture and shape.
func (m *Model) readConfig() error {
	text, err := os.ReadFile(filepath.Join(m.Path, "config.json"))
	if err != nil {
		return fmt.Errorf("it has no config.json%s", folderHint)
	}
	var c hfConfig
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("config.json: %w\n  hint: download the file again", err)
	}
	if c.Type == "" {
		return fmt.Errorf("config.json has no model_type%s", folderHint)
	}
	m.Architecture = c.Type
	if c.Text != nil {
		c = *c.Text
	}
	m.Dtype, m.Context = c.Dtype, c.Context
	if m.Dtype == "" {
		m.Dtype = c.TorchDtype
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	m.CacheValues = 2 * c.Layers * c.KVHeads * c.HeadDim
	return nil
}

// readTokenizer looks for the tokenizer and its chat template.
func (m *Model) readTokenizer() error {
	if _, err := os.Stat(filepath.Join(m.Path, "tokenizer.json")); err != nil {
		hint := folderHint
		if _, err := os.Stat(filepath.Join(m.Path, "tokenizer.model")); err == nil {
			hint = "\n  hint: it has tokenizer.model only; " +
				"AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes tokenizer.json"
		}
		return fmt.Errorf("it has no tokenizer.json%s", hint)
	}
	template, err := os.ReadFile(filepath.Join(m.Path, "chat_template.jinja"))
	if err != nil {
		template, _ = os.ReadFile(filepath.Join(m.Path, "tokenizer_config.json")) // it may be missing
	}
	m.ChatTemplate = err == nil || strings.Contains(string(template), `"chat_template"`)
	m.Thinking = strings.Contains(string(template), "enable_thinking")
	return nil
}

// readWeights counts the parameters in the headers of the safetensors files.
func (m *Model) readWeights() error {
	files, err := filepath.Glob(filepath.Join(m.Path, "*.safetensors"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("it has no *.safetensors%s", folderHint)
	}
	for _, file := range files {
		n, err := countSafetensors(file)
		if err != nil {
			return fmt.Errorf("%s: %w\n  hint: download the file again", filepath.Base(file), err)
		}
		m.Parameters += n
	}
	return nil
}

// maxSafetensorsHeader is the format's own limit in bytes.
const maxSafetensorsHeader = 100 << 20

// countSafetensors reads the header: 8 bytes of length, then JSON with shape and
// place of each tensor.
func countSafetensors(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var length uint64
	if err := binary.Read(f, binary.LittleEndian, &length); err != nil || length > maxSafetensorsHeader {
		return 0, errors.New("not a safetensors file")
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(f, text); err != nil {
		return 0, errors.New("the file is cut short")
	}
	var tensors map[string]json.RawMessage
	if err := json.Unmarshal(text, &tensors); err != nil {
		return 0, errors.New("not a safetensors file")
	}
	return addTensors(f, int64(length), tensors)
}

func addTensors(f *os.File, header int64, tensors map[string]json.RawMessage) (int64, error) {
	size, err := f.Stat()
	if err != nil {
		return 0, err
	}
	total, end := int64(0), int64(0)
	for name, text := range tensors {
		if name == "__metadata__" {
			continue
		}
		var tensor struct {
			Shape   []int64  `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(text, &tensor); err != nil {
			return 0, fmt.Errorf("tensor %s: %w", name, err)
		}
		n := int64(1)
		for _, d := range tensor.Shape {
			n *= d
		}
		total, end = total+n, max(end, tensor.Offsets[1])
	}
	if 8+header+end > size.Size() {
		return 0, errors.New("the file is cut short")
	}
	return total, nil
}
