package main

import (
	"cmp"
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/sampler/llamacpp"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/pyenv"
)

// setupError is a fault of the machine rather than of the run.
type setupError struct{ err error }

func (e *setupError) Error() string { return "set-up: " + e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// tools are what a run needs of the machine, found or installed.
type tools struct {
	python  string // interpreter with the trainer's packages
	sources string // the trainer's sources, for PYTHONPATH
	model   string // Hugging Face folder that the trainer loads
	gguf    string // the same model for llama-server
	context int    // tokens that the model was trained with; 0: unknown
}

// needsPython reports whether a run has processes of ours: a trainer, or the
// server that comes with the environment.
func needsPython(c config.Config) bool { return trains(c) || c.Sampler.Backend == "llamacpp" }

// setUp finds or installs everything that the configuration needs, with
// progress. An adaptation run on a server that runs already needs nothing.
func setUp(ctx context.Context, c config.Config, out *console, log zerolog.Logger) (tools, error) {
	fail := func(err error) (tools, error) {
		if ctx.Err() != nil {
			return tools{}, context.Cause(ctx)
		}
		return tools{}, &setupError{err}
	}
	start := time.Now()
	if err := checkModels(c); err != nil { // before gigabytes are installed
		return tools{}, err
	}
	if _, err := readFormat(c); err != nil {
		return tools{}, err
	}
	cache, err := pyenv.CacheDir()
	if err != nil {
		return fail(err)
	}
	var t tools
	if !needsPython(c) {
		return t, nil
	}
	if t.sources, err = trainerbridge.ExtractSources(cache); err != nil {
		return fail(err)
	}
	env, err := pyenv.Ensure(ctx, pyenv.Options{Requirements: trainerbridge.Requirements(), CacheDir: cache,
		Progress: func(e pyenv.Event) { out.note("set-up: %s", e) }})
	if err != nil {
		return fail(err)
	}
	t.python = env.Python
	if env.Created {
		out.note("set-up: done in %s; later runs start at once and work offline", time.Since(start).Round(time.Second))
	}
	t.model = trainerbridge.VaultModel(t.sources)
	if c.Model.Path != config.Embedded {
		if t.model, err = filepath.Abs(c.Model.Path); err != nil {
			return fail(err)
		}
	}
	t.context = inspect.Context(t.model)
	if c.Sampler.Backend != "llamacpp" {
		return t, nil
	}
	base := cmp.Or(c.Sampler.LlamaCPP.GGUF, t.model)
	converter := trainerbridge.Converter{Python: t.python, SourceDir: t.sources, Log: log}
	if t.gguf, err = llamacpp.EnsureBaseGGUF(ctx, converter, base, filepath.Join(cache, "gguf")); err != nil {
		return fail(err)
	}
	if t.context == 0 {
		if info, err := llamacpp.Inspect(t.gguf); err == nil {
			t.context = info.Context
		}
	}
	log.Info().Str("python", t.python).Str("model", t.model).Str("gguf", t.gguf).Dur("took",
		time.Since(start)).Msg("set up")
	return t, nil
}

// checkModels looks whether the models that the configuration names are there.
func checkModels(c config.Config) error {
	if err := config.RequireModel(c); err != nil {
		return err
	}
	path, gguf := c.Model.Path, c.Sampler.LlamaCPP.GGUF
	isFile := strings.HasSuffix(path, ".gguf")
	switch {
	case trains(c) && path != config.Embedded && !fileExists(filepath.Join(path, "config.json")):
		return &config.Error{Place: "model.path", Msg: path + " has no config.json",
			Hint: "name a folder in Hugging Face format (config.json, tokenizer.json, *.safetensors)"}
	case isFile && !fileExists(path):
		return &config.Error{Place: "model.path", Msg: path + " does not exist", Hint: "name a .gguf file"}
	case gguf != "" && !fileExists(gguf):
		return &config.Error{Place: "sampler.llamacpp.gguf", Msg: gguf + " does not exist",
			Hint: "name a .gguf file of the model in model.path"}
	}
	return nil
}
