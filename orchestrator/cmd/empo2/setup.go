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
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/llamacpp"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/pyenv"
)

// setupError is a problem of the machine, for example a missing program.
type setupError struct{ err error }

func (e *setupError) Error() string { return "set-up: " + e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// tools are the files that a run needs, found or installed by setUp.
type tools struct {
	python  string // interpreter with the trainer's packages
	sources string // the trainer's sources, for PYTHONPATH
	model   string // Hugging Face folder that the trainer loads
	gguf    string // the same model for llama-server
	context int    // tokens that the model was trained with; 0: unknown
}

// needsPython reports whether a run starts a trainer or llama-server, which are
// installed in empo2's Python environment.
func needsPython(c config.Config) bool { return trains(c) || c.Sampler.Backend == "llamacpp" }

// setUp finds or installs what a run needs, and reports progress. A run without
// training on a server that runs already needs nothing.
func setUp(ctx context.Context, c config.Config, out *console, log zerolog.Logger) (tools, error) {
	return setUpFor(ctx, c, true, out, log)
}

// setUpTrainer is setUp for a command that serves no model: it makes no GGUF file.
func setUpTrainer(ctx context.Context, c config.Config, out *console, log zerolog.Logger) (tools, error) {
	return setUpFor(ctx, c, false, out, log)
}

func setUpFor(ctx context.Context, c config.Config, serves bool, out *console, log zerolog.Logger) (tools, error) {
	if err := checkModels(c); err != nil { // before the installation of gigabytes
		return tools{}, err
	}
	if _, err := readPromptTemplate(c); err != nil {
		return tools{}, err
	}
	if serves {
		if err := checkPrograms(c); err != nil {
			return tools{}, err
		}
	}
	t, err := install(ctx, c, serves, out, log)
	if err == nil {
		return t, nil
	}
	if ctx.Err() != nil {
		return tools{}, context.Cause(ctx)
	}
	return tools{}, &setupError{err}
}

// findModel finds only the model, for a server that tokenizes.
func findModel(c config.Config) (t tools, err error) {
	if err := config.RequireModel(c); err != nil {
		return t, err
	}
	if c.Model.Path != config.Embedded {
		t.model, err = filepath.Abs(c.Model.Path)
		t.context = inspect.Context(t.model)
		return t, err
	}
	cache, err := pyenv.CacheDir()
	if err == nil {
		t.sources, err = trainerbridge.ExtractSources(cache)
	}
	if err != nil {
		return t, &setupError{err}
	}
	t.model = trainerbridge.VaultModel(t.sources)
	t.context = inspect.Context(t.model)
	return t, nil
}

// install creates the Python environment and prepares the model. If a llama-server
// serves it, that includes its GGUF file.
func install(ctx context.Context, c config.Config, serves bool, out *console, log zerolog.Logger) (t tools, err error) {
	start := time.Now()
	phase := watchdog.Phase{Name: watchdog.PhaseSetUp, Since: start}
	out.phase("", phase)
	defer out.endPhase("")
	if !needsPython(c) {
		return t, nil
	}
	cache, err := pyenv.CacheDir()
	if err != nil {
		return t, err
	}
	if t.sources, err = trainerbridge.ExtractSources(cache); err != nil {
		return t, err
	}
	env, err := pyenv.Ensure(ctx, pyenv.Options{Requirements: trainerbridge.Requirements(), CacheDir: cache,
		Progress: func(e pyenv.Event) { out.setUp(phase, e) }})
	if err != nil {
		return t, err
	}
	t.python = env.Python
	if env.Created {
		out.note("set-up: done in %s; later runs start at once and work offline", time.Since(start).Round(time.Second))
	}
	t.model = trainerbridge.VaultModel(t.sources)
	if c.Model.Path != config.Embedded {
		if t.model, err = filepath.Abs(c.Model.Path); err != nil {
			return t, err
		}
	}
	t.context = inspect.Context(t.model)
	if c.Sampler.Backend != "llamacpp" || !serves {
		return t, nil
	}
	phase.Detail = "the model's GGUF file"
	out.phase("", phase)
	if err := t.convert(ctx, c, filepath.Join(cache, "gguf"), log); err != nil {
		return t, err
	}
	log.Info().Str("python", t.python).Str("model", t.model).Str("gguf", t.gguf).
		Stringer("took", time.Since(start).Round(time.Millisecond)).Msg("set up")
	return t, nil
}

// setUp shows an event of the set-up. Without a terminal each is a line.
func (c *console) setUp(phase watchdog.Phase, e pyenv.Event) {
	if c.line.terminal && e.Stage != pyenv.StageWarning {
		e.Elapsed = 0 // the line has it
		phase.Detail = e.String()
		c.phase("", phase)
		return
	}
	c.note("set-up: %s", e)
}

// convert makes the model's GGUF file for llama-server, in the folder dir.
func (t *tools) convert(ctx context.Context, c config.Config, dir string, log zerolog.Logger) (err error) {
	base := cmp.Or(c.Sampler.LlamaCPP.GGUF, t.model)
	converter := trainerbridge.Converter{Python: t.python, SourceDir: t.sources, Inherit: c.Trainer.Env, Log: log}
	if t.gguf, err = llamacpp.EnsureBaseGGUF(ctx, converter, base, dir); err != nil {
		return err
	}
	if t.context == 0 {
		if info, err := llamacpp.Inspect(t.gguf); err == nil {
			t.context = info.Context
		}
	}
	return nil
}

// checkModels returns an error if a model that the configuration names does not
// exist.
func checkModels(c config.Config) error {
	if err := config.RequireModel(c); err != nil {
		return err
	}
	path, gguf := c.Model.Path, c.Sampler.LlamaCPP.GGUF
	isFile := strings.HasSuffix(path, ".gguf")
	if trains(c) && path != config.Embedded {
		m, err := inspect.Folder(path)
		if err != nil {
			return modelFault("model.path", err)
		}
		if err := useOf(c).check(m, "model.path"); err != nil {
			return err
		}
	}
	switch {
	case isFile && !fileExists(path):
		return &config.Error{Place: "model.path", Msg: path + " does not exist", Hint: "name a .gguf file"}
	case gguf != "" && !fileExists(gguf):
		return &config.Error{Place: "sampler.llamacpp.gguf", Msg: gguf + " does not exist",
			Hint: "name a .gguf file of the model in model.path"}
	}
	return nil
}
