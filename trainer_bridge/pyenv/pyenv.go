// Package pyenv finds a Python interpreter and creates the virtual environment
// in which the trainer and llama-server run. Start with [Ensure].
//
// The environment is in the user's cache. Its name is derived from its packages,
// so that another version of the program gets another environment. The system's
// Python is never changed. A file that is written last marks an environment as
// complete. An environment without this file, or with other packages, is created
// again. A complete environment needs no network.
package pyenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options are the requirements of an environment. Only Requirements has no
// default.
type Options struct {
	Requirements []string // in pip's format, pinned, markers allowed
	// CacheDir is the directory of the environments; empty is [CacheDir].
	CacheDir string
	// Python is an interpreter that already has the requirements. It is used
	// unchanged. Empty is the environment variable EMPO2_PYTHON. If that is empty
	// too, an environment is created.
	Python string
	// Search are names of interpreters on PATH, best first; nil is python3.13
	// down to python3.10, python3 and python.
	Search []string
	// Progress is called with every event, by one goroutine at a time. It may be
	// nil.
	Progress func(Event)
}

// Env is an interpreter whose environment has the requirements.
type Env struct {
	Python  string        // path of the interpreter
	Dir     string        // of the virtual environment; empty if it is the user's own
	Created bool          // this call created it
	Took    time.Duration // duration of the call
}

// CacheDir returns the folder of all files that can be created again:
// EMPO2_CACHE, else empo2 in the user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("EMPO2_CACHE"); dir != "" {
		if strings.HasPrefix(dir, "~") { // only a shell replaces it
			return "", &Error{Op: "find the cache directory", Err: fmt.Errorf("EMPO2_CACHE is %s", dir),
				Hint: "write the whole path; ./~… is a name that begins with ~"}
		}
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err == nil && !filepath.IsAbs(dir) {
		err = errors.New("HOME is a relative path")
	}
	if err != nil {
		return "", &Error{Op: "find the cache directory", Err: err, Hint: "set EMPO2_CACHE to a directory"}
	}
	return filepath.Join(dir, "empo2"), nil
}

// Ensure returns an environment that has the requirements. It creates one if
// there is none. If several processes need the same environment, one creates it
// and the others wait. If ctx ends, this call or the next one removes the
// incomplete environment. Errors are [*Error] with a hint if a remedy is known.
func Ensure(ctx context.Context, opts Options) (Env, error) {
	m, err := newMaker(opts)
	if err != nil {
		return Env{}, err
	}
	env, err := m.ensure(ctx)
	if ctx.Err() != nil && err != nil {
		return Env{}, fmt.Errorf("python environment: %w", context.Cause(ctx))
	}
	env.Took = time.Since(m.began)
	return env, err
}

// maker is one call of Ensure or Find.
type maker struct {
	opts  Options
	began time.Time
}

func newMaker(opts Options) (*maker, error) {
	if opts.Python == "" {
		opts.Python = os.Getenv("EMPO2_PYTHON")
	}
	if opts.Search == nil {
		opts.Search = []string{"python3.13", "python3.12", "python3.11", "python3.10", "python3", "python"}
	}
	var err error
	if opts.CacheDir == "" {
		opts.CacheDir, err = CacheDir()
	} else {
		opts.CacheDir, err = filepath.Abs(opts.CacheDir)
	}
	return &maker{opts: opts, began: time.Now()}, err
}

func (m *maker) ensure(ctx context.Context) (Env, error) {
	if m.opts.Python != "" {
		return m.ready(ctx)
	}
	base, err := m.choose(ctx)
	if err != nil {
		return Env{}, err
	}
	env := m.env(base)
	if m.intact(ctx, env) == nil {
		return env, nil
	}
	if err := os.MkdirAll(m.opts.CacheDir, 0o755); err != nil {
		return Env{}, &Error{Op: "create the cache directory", Err: err, Hint: "set EMPO2_CACHE to another directory"}
	}
	unlock, err := lock(ctx, env.Dir+".lock", func() {
		m.emit(Event{Stage: StageWait, Text: "another empo2 is creating the environment"})
	})
	if err != nil {
		return Env{}, err
	}
	defer unlock()
	if m.intact(ctx, env) == nil {
		return env, nil // the other process created it
	}
	if err := m.make(ctx, base, env); err != nil {
		os.RemoveAll(env.Dir)
		return Env{}, err
	}
	env.Created = true
	return env, nil
}

// ready checks the interpreter that the user names.
func (m *maker) ready(ctx context.Context) (Env, error) {
	python := m.opts.Python
	hint := "set EMPO2_PYTHON to an interpreter that has the trainer's packages, or unset it to get an environment"
	found, err := probe(ctx, python)
	if err != nil {
		return Env{}, &Error{Op: "use " + python, Err: err, Hint: hint}
	}
	if found.tooOld() {
		err := fmt.Errorf("it is Python %s; 3.10 is the oldest version that works", found.Version)
		return Env{}, &Error{Op: "use " + python, Err: err, Hint: hint}
	}
	state, err := inspect(ctx, python, m.opts.Requirements, false)
	if err != nil {
		return Env{}, &Error{Op: "check " + python, Err: err, Hint: hint}
	}
	if len(state.Missing) > 0 {
		return Env{}, &Error{Op: "use " + python, Err: fmt.Errorf("it lacks %s", strings.Join(state.Missing, ", ")),
			Hint: fmt.Sprintf("%s -m pip install %s, or unset EMPO2_PYTHON to get an environment",
				python, quoted(state.Missing))}
	}
	for _, d := range state.Different {
		text := fmt.Sprintf("%s has %s; the trainer was tested with %s", python, d.Have, d.Want)
		m.emit(Event{Stage: StageWarning, Text: text})
	}
	return Env{Python: python}, nil
}

// env returns the environment of a base interpreter, which may not exist yet.
func (m *maker) env(base Interpreter) Env {
	want := slices.Sorted(slices.Values(m.opts.Requirements))
	sum := sha256.Sum256([]byte(strings.Join(want, "\n") + "\npython " + base.Minor()))
	dir := filepath.Join(m.opts.CacheDir, "venv-"+hex.EncodeToString(sum[:])[:12])
	return Env{Python: filepath.Join(dir, "bin", "python"), Dir: dir}
}

// mark is the file that marks an environment as complete.
type mark struct {
	Python       string    `json:"python"`
	Requirements []string  `json:"requirements"`
	Made         time.Time `json:"made"`
}

func markOf(dir string) string { return filepath.Join(dir, "complete.json") }

var errNotMade = errors.New("it was not created yet")

// intact returns an error if an environment cannot be used.
func (m *maker) intact(ctx context.Context, env Env) error {
	if _, err := os.Stat(env.Dir); errors.Is(err, os.ErrNotExist) {
		return errNotMade
	}
	b, err := os.ReadFile(markOf(env.Dir))
	if err != nil {
		return errors.New("it was never completed")
	}
	var done mark
	if err := json.Unmarshal(b, &done); err != nil {
		return fmt.Errorf("read the mark of completeness: %w", err)
	}
	state, err := inspect(ctx, env.Python, m.opts.Requirements, false)
	if err != nil {
		return err
	}
	return state.problem()
}

// make creates the environment from nothing.
func (m *maker) make(ctx context.Context, base Interpreter, env Env) error {
	if err := os.RemoveAll(env.Dir); err != nil {
		return &Error{Op: "remove the broken environment", Err: err}
	}
	m.announce(base, env)
	if err := m.createVenv(ctx, base, env); err != nil {
		return err
	}
	if err := m.install(ctx, env); err != nil {
		return err
	}
	m.emit(Event{Stage: StageCheck, Text: "checking that every package can be imported"})
	state, err := inspect(ctx, env.Python, m.opts.Requirements, true)
	if err == nil {
		err = state.problem()
	}
	if err != nil {
		return &Error{Op: "check the new environment", Err: err}
	}
	done := mark{Python: base.Version, Requirements: m.opts.Requirements, Made: time.Now().UTC()}
	b, err := json.MarshalIndent(done, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(markOf(env.Dir), append(b, '\n'), 0o644); err != nil {
		return diskError("complete the environment", err, nil)
	}
	return nil
}
