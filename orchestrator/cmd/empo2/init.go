package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/sampler/llamacpp"
)

type initCmd struct {
	Model     string   `required:"" placeholder:"DIR|GGUF" help:"Folder in Hugging Face format; with --algorithm adapt also a GGUF file."`
	Env       string   `default:"vault" placeholder:"NAME" help:"Environment, as in env.name."`
	Backend   string   `placeholder:"NAME" help:"Server, as in sampler.backend. Default: vllm with a GPU, else llamacpp."`
	Algorithm string   `default:"empo2" placeholder:"NAME" help:"empo2, grpo (no memory) or adapt (no training)."`
	Set       []string `sep:"none" placeholder:"KEY=VALUE" help:"Further key to write. Repeatable."`
	Output    string   `short:"o" default:"config.toml" placeholder:"FILE" help:"File to write."`
	Force     bool     `help:"Replace the file if it exists."`

	Probe inspect.Probe `kong:"-"` // tests replace it
}

// Help is shown by empo2 init --help.
func (initCmd) Help() string {
	return `Inspects the model and this machine, and writes a configuration that empo2 run
accepts. A comment above each key gives the reason for its value. Next: empo2 doctor.

Examples:
  empo2 init --model /models/SmolLM2-135M-Instruct
  empo2 init --model /models/Qwen2.5-7B-Instruct --env scienceworld
  empo2 init --model DIR --env remote --set env.remote.url=http://127.0.0.1:8090
  empo2 init --model m.gguf --algorithm adapt`
}

func (cmd *initCmd) Run(out *console) error {
	if err := cmd.check(); err != nil {
		return err
	}
	subject, err := cmd.inspect()
	if err != nil {
		return err
	}
	p := newPlanner(subject, cmd.Env, cmd.Algorithm)
	p.choose()
	if err := p.add(cmd.Set); err != nil {
		return err
	}
	var text strings.Builder
	p.write(&text)
	c, err := config.LoadText(text.String(), cmd.Output, config.Machine{GPU: len(subject.machine.GPUs) > 0})
	if err != nil {
		return explain(err)
	}
	if err := cmd.save(text.String()); err != nil {
		return err
	}
	p.summary(out, c, cmd.Output)
	return nil
}

// check refuses names that do not exist and a file that exists.
func (cmd *initCmd) check() error {
	for _, f := range []struct {
		flag, value string
		valid       []string
	}{
		{"--env", cmd.Env, config.Environments()},
		{"--backend", cmd.Backend, append(config.Backends(), "")},
		{"--algorithm", cmd.Algorithm, []string{"empo2", "grpo", "adapt"}},
	} {
		if !slices.Contains(f.valid, f.value) {
			return &config.Error{Place: f.flag + " " + f.value, Msg: "unknown name",
				Hint: "one of " + strings.TrimSuffix(strings.Join(f.valid, ", "), ", ")}
		}
	}
	if _, err := os.Lstat(cmd.Output); !cmd.Force && !errors.Is(err, fs.ErrNotExist) {
		return &config.Error{Place: cmd.Output, Msg: "the file exists already",
			Hint: "choose another with -o FILE, or replace it with --force"}
	}
	return nil
}

// A subject is what init writes a configuration for.
type subject struct {
	model   inspect.Model
	gguf    *llamacpp.Info // nil: the model is a folder
	machine inspect.Machine
	backend string
}

// inspect looks at model and machine, and chooses the backend.
func (cmd *initCmd) inspect() (s subject, err error) {
	s.machine = cmd.Probe.Machine()
	s.backend = cmd.Backend
	isFile := isGGUF(cmd.Model)
	switch {
	case s.backend != "":
	case len(s.machine.GPUs) > 0 && !isFile:
		s.backend = "vllm"
	default:
		s.backend = "llamacpp"
	}
	if isFile {
		return s, cmd.inspectGGUF(&s)
	}
	if s.model, err = inspect.Folder(cmd.Model); err != nil {
		return s, modelFault(err)
	}
	return s, checkConversion(s)
}

// inspectGGUF accepts a file that is served and not trained.
func (cmd *initCmd) inspectGGUF(s *subject) error {
	path, err := filepath.Abs(cmd.Model)
	if err != nil {
		return err
	}
	info, err := llamacpp.Inspect(path)
	if err != nil {
		return modelFault(err)
	}
	switch {
	case cmd.Algorithm != "adapt":
		return &config.Error{Place: "--model " + cmd.Model,
			Msg: "a GGUF file can be served, but the trainer cannot load it",
			Hint: "name the model's folder in Hugging Face format; --set sampler.llamacpp.gguf=" + path +
				" then serves this file, and --algorithm adapt learns tips without training"}
	case s.backend != "llamacpp":
		return &config.Error{Place: "--backend " + s.backend, Msg: "only llamacpp serves a GGUF file",
			Hint: "leave --backend out"}
	}
	s.gguf = &info
	s.model = inspect.Model{Path: path, Architecture: info.Architecture, Context: info.Context,
		Parameters: info.Parameters,
		Dtype:      info.Quantisation, ChatTemplate: info.ChatTemplate}
	return nil
}

// isGGUF tells a GGUF file by its name or its first bytes.
func isGGUF(path string) bool {
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return false
	}
	if strings.HasSuffix(path, ".gguf") {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == "GGUF"
}

// convertible are the architectures that the trainer can write as GGUF
// (empo2_trainer/model_dir.py).
var convertible = []string{"qwen2", "qwen3", "llama"}

// checkConversion refuses a backend that needs GGUF for a model that cannot be
// converted.
func checkConversion(s subject) error {
	needs := s.backend == "llamacpp" || s.backend == "ollama"
	if !needs || slices.Contains(convertible, s.model.Architecture) {
		return nil
	}
	return &config.Error{Place: "--model " + s.model.Path, Hint: "use --backend vllm or --backend sglang",
		Msg: fmt.Sprintf("%s needs the model as GGUF, and %q cannot be converted (%s can)", s.backend,
			s.model.Architecture, strings.Join(convertible, ", "))}
}

// modelFault makes a fault of --model a fault of the command line.
func modelFault(err error) error {
	msg, hint, _ := strings.Cut(err.Error(), "\n  hint: ")
	return &config.Error{Place: "--model", Msg: msg, Hint: hint}
}

// explain tells the user of init how to add a key that is missing.
func explain(err error) error {
	var fault *config.Error
	if !errors.As(err, &fault) || !strings.Contains(fault.Msg, "is empty") {
		return err
	}
	key := fault.Place[strings.LastIndex(fault.Place, " ")+1:]
	return &config.Error{Place: key, Msg: fault.Msg, Hint: fmt.Sprintf("add --set %s=VALUE (%s)", key, fault.Hint)}
}

// save writes the file as a whole or not at all.
func (cmd *initCmd) save(text string) error {
	return writeFile(cmd.Output, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}
