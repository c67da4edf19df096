// Package pyenv finds a Python and makes the virtual environment that the
// trainer and the embedded inference server run in.
//
// The environment lies in the user's cache and is named after what it holds,
// so that another version of the program gets another one and the system's
// Python is never touched. A file written last marks it complete; whatever
// lacks the mark or fails its check is made anew. Once complete it needs no
// network.
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

// Options say what an environment must hold. Only Requirements has no default.
type Options struct {
	Requirements []string // as pip reads them, pinned, markers allowed
	// CacheDir is the directory that environments are made in; empty is
	// [CacheDir].
	CacheDir string
	// Python is an interpreter that has the requirements already. It is used
	// as it is. Empty is the environment variable EMPO2_PYTHON; without that
	// too an environment is made.
	Python string
	// Search are the names of interpreters looked for on PATH, best first; nil
	// is python3.13 down to python3.10, python3 and python.
	Search []string
	// Progress is told what happens, from one goroutine at a time; nil: nobody.
	Progress func(Event)
}

// Env is an interpreter whose environment holds the requirements.
type Env struct {
	Python  string        // path of the interpreter
	Dir     string        // of the virtual environment; empty if it is the user's own
	Created bool          // it was made just now
	Took    time.Duration // from the call to the answer
}

// CacheDir is where everything lies that can be made again: EMPO2_CACHE, else
// empo2 in the user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("EMPO2_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", &Error{Op: "find the cache directory", Err: err, Hint: "name one with EMPO2_CACHE"}
	}
	return filepath.Join(dir, "empo2"), nil
}

// Ensure returns an environment that holds the requirements, and makes it if
// there is none. Of several processes that want the same one, one makes it and
// the others wait. If ctx ends, what was begun is removed, by the next call at
// the latest. Errors are [*Error] with a remedy where one is known.
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
		return Env{}, &Error{Op: "make the cache directory", Err: err, Hint: "name another one with EMPO2_CACHE"}
	}
	unlock, err := lock(ctx, env.Dir+".lock", func() {
		m.tell(Event{Stage: StageWait, Text: "another empo2 is making the environment"})
	})
	if err != nil {
		return Env{}, err
	}
	defer unlock()
	if m.intact(ctx, env) == nil {
		return env, nil // the other one made it
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
	hint := "EMPO2_PYTHON must name an interpreter that has the trainer's packages; unset, an environment is made"
	found, err := probe(ctx, python)
	if err != nil {
		return Env{}, &Error{Op: "use " + python, Err: err, Hint: hint}
	}
	if found.tooOld() {
		return Env{}, &Error{Op: "use " + python, Err: fmt.Errorf("it is Python %s; 3.10 is the oldest that works", found.Version), Hint: hint}
	}
	state, err := inspect(ctx, python, m.opts.Requirements, false)
	if err != nil {
		return Env{}, &Error{Op: "check " + python, Err: err, Hint: hint}
	}
	if len(state.Missing) > 0 {
		return Env{}, &Error{Op: "use " + python, Err: fmt.Errorf("it lacks %s", strings.Join(state.Missing, ", ")),
			Hint: fmt.Sprintf("%s -m pip install %s, or unset EMPO2_PYTHON to have an environment made", python, quoted(state.Missing))}
	}
	for _, d := range state.Different {
		m.tell(Event{Stage: StageWarning, Text: fmt.Sprintf("%s has %s; it was tested with %s", python, d.Have, d.Want)})
	}
	return Env{Python: python}, nil
}

// env names the environment of a base interpreter.
func (m *maker) env(base Interpreter) Env {
	want := slices.Sorted(slices.Values(m.opts.Requirements))
	sum := sha256.Sum256([]byte(strings.Join(want, "\n") + "\npython " + base.Minor()))
	dir := filepath.Join(m.opts.CacheDir, "venv-"+hex.EncodeToString(sum[:])[:12])
	return Env{Python: filepath.Join(dir, "bin", "python"), Dir: dir}
}

// mark is the file that makes an environment complete.
type mark struct {
	Python       string    `json:"python"`
	Requirements []string  `json:"requirements"`
	Made         time.Time `json:"made"`
}

func markOf(dir string) string { return filepath.Join(dir, "complete.json") }

var errNotMade = errors.New("not made yet")

// intact says why an environment cannot be used as it is, or nil.
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
		return fmt.Errorf("read its mark: %w", err)
	}
	state, err := inspect(ctx, env.Python, m.opts.Requirements, false)
	if err != nil {
		return err
	}
	return state.problem()
}

// make builds the environment from nothing.
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
	m.tell(Event{Stage: StageCheck, Text: "checking that every package can be imported"})
	state, err := inspect(ctx, env.Python, m.opts.Requirements, true)
	if err == nil {
		err = state.problem()
	}
	if err != nil {
		return &Error{Op: "check the new environment", Err: err}
	}
	b, err := json.MarshalIndent(mark{Python: base.Version, Requirements: m.opts.Requirements, Made: time.Now().UTC()}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(markOf(env.Dir), append(b, '\n'), 0o644); err != nil {
		return diskError("complete the environment", err, nil)
	}
	return nil
}
