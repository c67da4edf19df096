// Package inspect examines a model folder and a machine for empo2 init and empo2 plan. It does
// not load the model and installs nothing. Start with [Folder], which returns a
// [Model], and with [Probe], which returns a [Machine].
package inspect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	// CacheValues is how many numbers a key-value cache holds for one token.
	CacheValues  int64
	Shape        Shape
	ChatTemplate bool // the tokenizer has a chat template
	Thinking     bool // the template has the argument enable_thinking
	// Quantisation is the method of config.json, for example "gptq"; empty: the
	// weights are not quantised.
	Quantisation string
	// RopeScaling is the kind in config.json, for example "llama3"; empty: none.
	RopeScaling string
}

// folderHint lists what a model folder must contain.
const folderHint = "\n  hint: name a folder in Hugging Face format: config.json, tokenizer.json, *.safetensors"

// Folder reads a model folder. It returns an error if a trainer cannot load it.
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
	case errors.Is(err, fs.ErrNotExist):
		return m, fmt.Errorf("no such file or folder%s", folderHint)
	case err != nil:
		return m, fmt.Errorf("%w%s", cause(err), folderHint)
	case !info.IsDir():
		return m, fmt.Errorf("neither a folder nor a GGUF file%s", folderHint)
	}
	if err := m.readConfig(); err != nil {
		return m, err
	}
	if err := m.readTokenizer(); err != nil {
		return m, err
	}
	return m, m.readWeights()
}

// Context returns how many tokens the model of a folder was trained with, or 0
// if its config.json does not say.
func Context(path string) int {
	m := Model{Path: path}
	if err := m.readConfig(); err != nil {
		return 0
	}
	return m.Context
}

// Architecture returns the model_type of a model folder, or "" if its config.json
// does not say.
func Architecture(path string) string {
	m := Model{Path: path}
	if err := m.readConfig(); err != nil {
		return ""
	}
	return m.Architecture
}

// readTokenizer looks for the tokenizer and its chat template.
func (m *Model) readTokenizer() error {
	text, err := m.read("tokenizer.json")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("it has no tokenizer.json%s", m.tokenizerHint())
	case err != nil:
		return err
	case !json.Valid(text):
		return fmt.Errorf("tokenizer.json is not JSON%s", m.downloadHint(text))
	}
	template, err := m.read("chat_template.jinja")
	for _, name := range []string{"chat_template.json", "tokenizer_config.json"} {
		if err != nil && len(template) == 0 {
			template = m.configuredTemplate(name)
		}
	}
	m.ChatTemplate = len(template) > 0
	m.Thinking = strings.Contains(string(template), "enable_thinking")
	return nil
}

// configuredTemplate is the chat template in a JSON file, as JSON or as text. Of a
// list of named ones it is the one called default. Empty: there is none.
func (m *Model) configuredTemplate(name string) []byte {
	text, err := m.read(name)
	if err != nil {
		return nil // the file may be missing
	}
	var c struct {
		Template json.RawMessage `json:"chat_template"`
	}
	if err := json.Unmarshal(text, &c); err != nil || string(c.Template) == "null" {
		return nil
	}
	var named []struct{ Name, Template string }
	if json.Unmarshal(c.Template, &named) != nil {
		return c.Template
	}
	for _, t := range named {
		if t.Name == "default" {
			return []byte(t.Template)
		}
	}
	return nil
}

// tokenizerHint says how to get a tokenizer.json from the files that are there.
func (m *Model) tokenizerHint() string {
	for _, old := range []string{"tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"} {
		if _, err := os.Stat(filepath.Join(m.Path, old)); err == nil {
			return "\n  hint: it has " + old + " only; " +
				"AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes tokenizer.json"
		}
	}
	return folderHint
}

// read returns a file of the folder. Anything but a regular file is refused,
// because reading it could block.
func (m *Model) read(name string) ([]byte, error) {
	path := filepath.Join(m.Path, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, cause(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file%s", name, folderHint)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n  hint: check its owner and permissions", name, cause(err))
	}
	return text, nil
}

// cause is an error without the path, which the caller names.
func cause(err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// downloadHint says how to get a damaged file again; text is its beginning.
func (m *Model) downloadHint(text []byte) string {
	if strings.HasPrefix(string(text), "version https://git-lfs") {
		return "\n  hint: it is a pointer of Git LFS: git lfs pull downloads the file"
	}
	return "\n  hint: download the file again"
}
