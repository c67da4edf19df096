package pyenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Interpreter describes a Python interpreter.
type Interpreter struct {
	Name    string // the command's name
	Path    string // the interpreter's own path
	Version string // for example "3.11.9"
	Venv    bool   // it can create virtual environments with pip
	Problem string // why it cannot be used; empty if it can
}

// String is, for example, "python3 3.11.9, /usr/bin/python3".
func (i Interpreter) String() string {
	text := i.Name
	if i.Version != "" {
		text += " " + i.Version
	}
	if i.Path != "" {
		text += ", " + i.Path
	}
	if i.Problem != "" {
		text += ": " + i.Problem
	}
	return text
}

// Minor returns the version without its last number, for example "3.11".
func (i Interpreter) Minor() string {
	parts := strings.SplitN(i.Version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

func (i Interpreter) tooOld() bool {
	var major, minor int
	fmt.Sscanf(i.Version, "%d.%d", &major, &minor)
	return major < 3 || (major == 3 && minor < 10)
}

// Report describes what Ensure would find or do.
type Report struct {
	Ready        string        // interpreter that the user names; empty: none
	Interpreters []Interpreter // those on PATH, best first
	Dir          string        // the environment's folder, present or future; empty without an interpreter
	Problem      error         // why Ensure would fail or would have work to do; nil: the environment is ready
}

// Find reports the state of the environment that Ensure would return. It changes
// nothing.
func Find(ctx context.Context, opts Options) Report {
	opts.Progress = nil
	m, err := newMaker(opts)
	if err != nil {
		return Report{Problem: err}
	}
	if m.opts.Python != "" {
		_, err := m.ready(ctx)
		return Report{Ready: m.opts.Python, Problem: err}
	}
	report := Report{Interpreters: m.search(ctx)}
	base, err := chosen(report.Interpreters)
	if err != nil {
		report.Problem = err
		return report
	}
	env := m.env(base)
	report.Dir = env.Dir
	if err := m.intact(ctx, env); err != nil {
		report.Problem = &Error{Op: "environment " + env.Dir, Err: err, Hint: "the next run creates it"}
	}
	return report
}

func (m *maker) choose(ctx context.Context) (Interpreter, error) {
	for _, name := range m.opts.Search {
		if i, ok := candidate(ctx, name); ok && i.Problem == "" {
			return i, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return Interpreter{}, err
	}
	return chosen(m.search(ctx))
}

// search looks up every name on PATH.
func (m *maker) search(ctx context.Context) []Interpreter {
	var all []Interpreter
	for _, name := range m.opts.Search {
		if i, ok := candidate(ctx, name); ok {
			all = append(all, i)
		}
	}
	return all
}

// candidate examines one name. It is not ok if there is no such command.
func candidate(ctx context.Context, name string) (Interpreter, bool) {
	path, err := exec.LookPath(name)
	if err != nil {
		return Interpreter{}, false
	}
	i, err := probe(ctx, path)
	i.Name = name
	switch {
	case err != nil:
		i.Path, i.Problem = path, "it does not run: "+err.Error()
	case i.tooOld():
		i.Problem = "older than 3.10"
	case !i.Venv:
		i.Problem = noVenv
	}
	return i, true
}

const noVenv = "it has no venv or ensurepip module"

// chosen returns the first interpreter without a problem, or an error that lists
// the problems of all.
func chosen(all []Interpreter) (Interpreter, error) {
	at := slices.IndexFunc(all, func(i Interpreter) bool { return i.Problem == "" })
	if at >= 0 {
		return all[at], nil
	}
	e := &Error{Op: "find Python 3.10 or newer", Err: errors.New("there is none on PATH"),
		Hint: "install it (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python), " +
			"or set EMPO2_PYTHON to an interpreter that has the packages"}
	for _, i := range all {
		line := fmt.Sprintf("%s: %s %s: %s", i.Name, i.Path, i.Version, i.Problem)
		e.Output = append(e.Output, strings.TrimSpace(line))
		if i.Problem == noVenv {
			e.Err = fmt.Errorf("Python %s cannot create virtual environments", i.Version)
			e.Hint = fmt.Sprintf("apt install python%s-venv (Debian, Ubuntu), "+
				"or set EMPO2_PYTHON to an interpreter that has the packages", i.Minor())
		}
	}
	if len(all) > 0 && !strings.Contains(e.Err.Error(), "virtual") {
		e.Err = errors.New("no interpreter on PATH can be used")
	}
	return Interpreter{}, e
}

const probeScript = `
import importlib.util, json, sys
has = lambda name: importlib.util.find_spec(name) is not None
print(json.dumps({"path": sys.executable, "version": "%d.%d.%d" % sys.version_info[:3],
    "venv": has("venv") and has("ensurepip")}))
`

// probe runs an interpreter to learn its path and version.
func probe(ctx context.Context, python string) (Interpreter, error) {
	out, err := ask(ctx, 20*time.Second, python, probeScript)
	if err != nil {
		return Interpreter{}, err
	}
	var i struct {
		Path, Version string
		Venv          bool
	}
	if err := json.Unmarshal(out, &i); err != nil {
		return Interpreter{}, fmt.Errorf("it answered %q", firstLine(out))
	}
	return Interpreter{Path: i.Path, Version: i.Version, Venv: i.Venv}, nil
}

// mainLine returns the most useful line: the last of a traceback, else the
// first.
func mainLine(lines []string) string {
	for _, line := range lines {
		if strings.HasPrefix(line, "Traceback") {
			return lines[len(lines)-1]
		}
	}
	return lines[0]
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(line)
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}
