package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
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
}

// setUp finds or installs everything, with progress.
func setUp(ctx context.Context, c config.Config, out *console, log zerolog.Logger) (tools, error) {
	fail := func(err error) (tools, error) {
		if ctx.Err() != nil {
			return tools{}, context.Cause(ctx)
		}
		return tools{}, &setupError{err}
	}
	start := time.Now()
	cache, err := pyenv.CacheDir()
	if err != nil {
		return fail(err)
	}
	var t tools
	if t.sources, err = trainerbridge.ExtractSources(cache); err != nil {
		return fail(err)
	}
	env, err := pyenv.Ensure(ctx, pyenv.Options{Requirements: trainerbridge.Requirements(), CacheDir: cache, Progress: func(e pyenv.Event) { out.note("set-up: %s", e) }})
	if err != nil {
		return fail(err)
	}
	t.python = env.Python
	if t.model, err = modelDir(c, t.sources); err != nil {
		return fail(err)
	}
	model := t.model
	if c.Sampler.Model != "embedded" {
		model = c.Sampler.Model
	}
	if t.gguf, err = llamacpp.EnsureBaseGGUF(ctx, t.python, t.sources, model, filepath.Join(cache, "gguf")); err != nil {
		return fail(err)
	}
	if env.Created {
		out.note("set-up: done in %s; later runs start at once and work offline", time.Since(start).Round(time.Second))
	}
	log.Info().Str("python", t.python).Str("model", t.model).Str("gguf", t.gguf).Dur("took", time.Since(start)).Msg("set up")
	return t, nil
}

func modelDir(c config.Config, sources string) (string, error) {
	if c.Trainer.Model == "embedded" {
		return trainerbridge.VaultModel(sources), nil
	}
	dir, err := filepath.Abs(c.Trainer.Model)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("trainer.model: %s has no config.json\n  hint: name a folder in Hugging Face format (config.json, tokenizer.json, *.safetensors)", dir)
		}
		return "", err
	}
	return dir, nil
}
