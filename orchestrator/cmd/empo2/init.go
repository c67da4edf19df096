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
	"unicode/utf8"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/sampler/llamacpp"
)

type initCmd struct {
	Model     string   `required:"" placeholder:"DIR|GGUF" help:"Hugging Face folder, or a GGUF file (adapt only)."`
	Env       string   `default:"vault" placeholder:"NAME" help:"Environment, as in env.name. Default: vault."`
	Backend   string   `placeholder:"NAME" help:"Server, as in sampler.backend. Default: vllm if there is a GPU."`
	Algorithm string   `default:"empo2" placeholder:"NAME" help:"empo2 (default), grpo (no memory), adapt (no training)."`
	GPUs      int      `name:"gpus" default:"1" placeholder:"N" help:"GPUs to use: half serve, half train."`
	Set       []string `sep:"none" placeholder:"KEY=VALUE" help:"Further key to write. Repeatable."`
	Output    string   `short:"o" default:"config.toml" placeholder:"FILE" help:"File to write. Default: config.toml."`
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
  empo2 init --model /models/Qwen2.5-7B-Instruct --gpus 2
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
	if err := cmd.checkGPUs(subject); err != nil {
		return err
	}
	p := newPlanner(subject, cmd.Env, cmd.Algorithm)
	p.gpus = cmd.GPUs
	p.choose()
	if err := p.add(cmd.Set); err != nil {
		return err
	}
	var text strings.Builder
	p.write(&text)
	c, err := config.LoadText(text.String(), cmd.Output, p.hardware())
	if err != nil {
		return explain(err)
	}
	if err := cmd.save(text.String()); err != nil {
		return err
	}
	p.summary(out, c, cmd.Output)
	return nil
}

// check returns an error for unknown names and for a file that exists.
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
	if cmd.Model == "" {
		return &config.Error{Place: "--model", Msg: "is empty", Hint: "name a model's folder or a GGUF file"}
	}
	if !utf8.ValidString(cmd.Model) {
		return &config.Error{Place: "--model", Msg: fmt.Sprintf("%q is not UTF-8, as config.toml must be", cmd.Model),
			Hint: "rename the folder, or make a symbolic link with another name"}
	}
	if cmd.Backend == "openai" && cmd.Algorithm != "adapt" {
		return &config.Error{Place: "--backend openai", Msg: "an OpenAI-compatible endpoint takes no adapters, so " +
			"nothing can be trained", Hint: "add --algorithm adapt, which learns tips without training, or name " +
			"another backend"}
	}
	if err := cmd.checkSets(); err != nil {
		return err
	}
	return cmd.checkOutput()
}

// checkSets refuses the keys that have a flag of their own: other keys follow
// from them.
func (cmd *initCmd) checkSets() error {
	flags := map[string]string{
		"model.path": "--model", "env.name": "--env", "sampler.backend": "--backend", "algorithm.name": "--algorithm",
	}
	for _, set := range cmd.Set {
		key, value, err := config.ParseSet(set)
		if err != nil {
			return err
		}
		if flag := flags[key]; flag != "" {
			return &config.Error{Place: "--set " + set, Msg: "other values follow from this one",
				Hint: "give it as " + flag}
		}
		if name := strings.Trim(value, `"`); key == "profile" && !slices.Contains(config.Profiles(), name) {
			return &config.Error{Place: "--set " + set, Msg: fmt.Sprintf("unknown profile %q", name),
				Hint: "one of " + strings.Join(config.Profiles(), ", ")}
		}
	}
	return nil
}

// checkOutput refuses a place where the file cannot be written or would replace
// another.
func (cmd *initCmd) checkOutput() error {
	const other = "choose another with -o FILE"
	fault := func(msg, hint string) error { return &config.Error{Place: "-o " + cmd.Output, Msg: msg, Hint: hint} }
	if cmd.Output == "" {
		return fault("is empty", other)
	}
	info, err := os.Stat(cmd.Output)
	if err == nil && !info.Mode().IsRegular() {
		return fault("is not a file", other)
	}
	if _, err := os.Lstat(cmd.Output); !cmd.Force && !errors.Is(err, fs.ErrNotExist) && err == nil {
		return fault("the file exists already", other+", or replace it with --force")
	}
	dir := filepath.Dir(cmd.Output)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fault("there is no folder "+dir, "make it first, or "+other)
	}
	return nil
}

// A subject is the model, machine and backend that a configuration is for.
type subject struct {
	model   inspect.Model
	gguf    *llamacpp.Info // nil: the model is a folder
	machine inspect.Machine
	backend string
	given   bool // the user chose the backend
}

// inspect examines model and machine, and chooses the backend.
func (cmd *initCmd) inspect() (s subject, err error) {
	s.machine = cmd.Probe.Machine()
	s.backend, s.given = cmd.Backend, cmd.Backend != ""
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
		return s, modelFault("--model", err)
	}
	ownFile := slices.ContainsFunc(cmd.Set, func(set string) bool {
		return strings.HasPrefix(set, "sampler.llamacpp.gguf=")
	})
	use := modelUse{backend: s.backend, trains: cmd.Algorithm != "adapt", ownFile: ownFile, flags: true}
	return s, use.check(s.model, "--model "+s.model.Path)
}

// inspectGGUF reads a GGUF file. It can be served but not trained.
func (cmd *initCmd) inspectGGUF(s *subject) error {
	path, err := filepath.Abs(cmd.Model)
	if err != nil {
		return err
	}
	info, err := llamacpp.Inspect(path)
	if err != nil {
		return modelFault("--model", err)
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
	s.model = inspect.Model{
		Path: path, Architecture: info.Architecture, Context: info.Context, Parameters: info.Parameters,
		Dtype: info.Quantisation, ChatTemplate: info.ChatTemplate,
	}
	return nil
}

// isGGUF recognises a GGUF file by its name or its first bytes.
func isGGUF(path string) bool {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
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

// modelFault turns an error about the model into one about the flag or key that
// names it.
func modelFault(place string, err error) error {
	msg, hint := splitHint(err)
	return &config.Error{Place: place, Msg: msg, Hint: hint}
}

// explain adds the hint how to set a key that is missing.
func explain(err error) error {
	var fault *config.Error
	if !errors.As(err, &fault) {
		return err
	}
	if !strings.Contains(fault.Msg, "is empty") && !strings.HasPrefix(fault.Msg, "no server") {
		return err
	}
	key := fault.Place[strings.LastIndex(fault.Place, " ")+1:]
	return &config.Error{Place: key, Msg: fault.Msg, Hint: fmt.Sprintf("add --set %s=VALUE (%s)", key, fault.Hint)}
}

// save writes the file atomically.
func (cmd *initCmd) save(text string) error {
	err := writeFile(cmd.Output, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
	if err != nil {
		return &config.Error{Place: "-o " + cmd.Output, Msg: "cannot be written: " + err.Error(),
			Hint: "choose a writable place with -o FILE"}
	}
	return nil
}
