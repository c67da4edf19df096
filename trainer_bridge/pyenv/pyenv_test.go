package pyenv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/empo2/empo2/orchestrator/process/processtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stub is a shell script in place of Python. It answers the scripts of this
// package, creates "environments" by copying itself, and runs STUB_PIP as pip.
const stub = `#!/bin/sh
if [ "$1" = -c ] && [ $# = 2 ]; then
	echo '{"path": "'"$0"'", "version": "'"${STUB_VERSION:-3.11.9}"'", "venv": '"${STUB_VENV:-true}"'}'
elif [ "$1" = -c ]; then
	echo "${STUB_STATE:-{\}}"
elif [ "$2" = venv ]; then
	eval "$STUB_CREATE"
	mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
elif [ "$2" = pip ]; then
	echo "pip $*" >> "$STUB_LOG"
	eval "$STUB_PIP"
fi
`

// stubProgram is the stub with its settings, because it inherits no variables of their
// names.
func stubProgram() string {
	return strings.Replace(stub, "#!/bin/sh\n", "#!/bin/sh\n. '"+os.Getenv("STUB_SETTINGS")+"'\n", 1)
}

// set changes a setting of the stub.
func set(t *testing.T, name, value string) {
	t.Helper()
	f, err := os.OpenFile(os.Getenv("STUB_SETTINGS"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(name + "='" + value + "'\n"); err != nil {
		t.Fatal(err)
	}
}

// stubbed puts the stub on PATH as python3. It returns options that use it, a
// function for the events so far, and one for the number of calls of pip.
func stubbed(t *testing.T, environ ...string) (opts Options, events func() []Event, pips func() int) {
	t.Helper()
	bin, logFile := t.TempDir(), filepath.Join(t.TempDir(), "log")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("EMPO2_PYTHON", "")
	t.Setenv("STUB_SETTINGS", filepath.Join(t.TempDir(), "settings"))
	for _, v := range append(environ, "STUB_LOG="+logFile) {
		name, value, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "STUB_") {
			set(t, name, value)
		} else {
			t.Setenv(name, value)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "python3"), []byte(stubProgram()), 0o755); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told []Event
	opts = Options{
		Requirements: []string{"demo==1.0"}, CacheDir: filepath.Join(t.TempDir(), "cache"),
		Search:   []string{"python3"},
		Progress: func(e Event) { mu.Lock(); told = append(told, e); mu.Unlock() },
	}
	events = func() []Event { mu.Lock(); defer mu.Unlock(); return slices.Clone(told) }
	pips = func() int { b, _ := os.ReadFile(logFile); return strings.Count(string(b), "\n") }
	return opts, events, pips
}

func TestEnvironmentIsCreatedOnce(t *testing.T) {
	opts, events, pips := stubbed(t,
		`STUB_PIP=echo "Collecting demo==1.0 (from -r x)"; echo "  Downloading demo-1.0-py3-none-any.whl (906.4 MB)"; `+
			`echo "Installing collected packages: demo, other"`)
	env, err := Ensure(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if !env.Created || filepath.Dir(env.Dir) != opts.CacheDir {
		t.Errorf("first: %+v", env)
	}
	var texts []string
	for _, e := range events() {
		e.Elapsed = 0
		if !e.Tick {
			texts = append(texts, e.String())
		}
	}
	want := []string{
		"creating a virtual environment with Python 3.11.9 in " + env.Dir,
		"downloading demo-1.0 (906.4 MB)", "installing 2 packages", "checking that every package can be imported",
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	again, err := Ensure(t.Context(), opts)
	if err != nil || again.Created || again.Python != env.Python || pips() != 1 {
		t.Errorf("second: %+v, %v, pip ran %d times", again, err, pips())
	}
	if r := Find(t.Context(), opts); r.Problem != nil || r.Dir != env.Dir {
		t.Errorf("report: %+v", r)
	}
}

func TestOtherRequirementsGetAnotherEnvironment(t *testing.T) {
	opts, _, _ := stubbed(t)
	first, err := Ensure(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	opts.Requirements = []string{"demo==2.0"}
	if second, err := Ensure(t.Context(), opts); err != nil || second.Dir == first.Dir {
		t.Errorf("second: %+v, %v", second, err)
	}
	set(t, "STUB_VERSION", "3.12.1")
	if third, err := Ensure(t.Context(), opts); err != nil || third.Dir == first.Dir {
		t.Errorf("with another Python: %+v, %v", third, err)
	}
}

func TestDamagedEnvironmentIsCreatedAgain(t *testing.T) {
	f := func(name string, damage func(env Env)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			opts, _, pips := stubbed(t)
			env, err := Ensure(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			damage(env)
			if r := Find(t.Context(), opts); r.Problem == nil {
				t.Error("the damage is not reported")
			}
			again, err := Ensure(t.Context(), opts)
			if err != nil || !again.Created || again.Dir != env.Dir || pips() != 2 {
				t.Errorf("repaired: %+v, %v, pip ran %d times", again, err, pips())
			}
		})
	}
	f("no mark", func(env Env) { os.Remove(markOf(env.Dir)) })
	f("mark cut short", func(env Env) { os.Truncate(markOf(env.Dir), 5) })
	f("no interpreter", func(env Env) { os.Remove(env.Python) })
	f("interpreter that does not run", func(env Env) {
		os.WriteFile(env.Python, []byte("#!/bin/sh\nexit 1\n"),
			0o755)
	})
}

func TestErrorsHaveHints(t *testing.T) {
	f := func(name string, environ []string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			opts, _, _ := stubbed(t, environ...)
			_, err := Ensure(t.Context(), opts)
			var typed *Error
			if !errors.As(err, &typed) {
				t.Fatalf("got %v", err)
			}
			for _, w := range want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error lacks %q:\n%v", w, err)
				}
			}
			if dirs, _ := filepath.Glob(filepath.Join(opts.CacheDir, "venv-*", "*")); len(dirs) > 0 {
				t.Errorf("left behind: %v", dirs)
			}
		})
	}
	f("too old", []string{"STUB_VERSION=3.9.18"}, "Python 3.10", "3.9.18: older than 3.10", "EMPO2_PYTHON")
	f("no venv module", []string{"STUB_VENV=false"}, "cannot create virtual environments",
		"apt install python3.11-venv")
	f("venv fails", []string{`STUB_CREATE=echo "ensurepip is not available"; exit 1`},
		"ensurepip is not available", "apt install python3.11-venv")
	f("no network",
		[]string{`STUB_PIP=echo "WARNING: Retrying after NewConnectionError" >&2; ` +
			`echo "ERROR: No matching distribution found for demo" >&2; exit 1`},
		"No matching distribution found for demo", "no package index could be reached", "PIP_INDEX_URL")
	f("no such version",
		[]string{`STUB_PIP=echo "ERROR: No matching distribution found for demo" >&2; exit 1`}, "try another Python")
	f("disk full", []string{`STUB_PIP=echo "ERROR: [Errno 28] No space left on device" >&2; exit 1`},
		"disk is full", "EMPO2_CACHE")
	f("certificate", []string{`STUB_PIP=echo "SSLError(CERTIFICATE_VERIFY_FAILED)" >&2; exit 1`}, "PIP_CERT")
	f("import fails", []string{`STUB_STATE={"broken": ["demo (OSError: libfoo.so)"]}`},
		"cannot import demo (OSError: libfoo.so)")
}

func TestNoPythonAtAll(t *testing.T) {
	opts, _, _ := stubbed(t)
	opts.Search = []string{"no-such-python"}
	_, err := Ensure(t.Context(), opts)
	if err == nil || !strings.Contains(err.Error(), "there is none on PATH") ||
		!strings.Contains(err.Error(), "apt install python3") {
		t.Error(err)
	}
}

func TestReadyInterpreterIsUsedUnchanged(t *testing.T) {
	opts, events, pips := stubbed(t, `STUB_STATE={"different": [{"have": "demo 0.9", "want": "==1.0"}]}`)
	python := filepath.Join(t.TempDir(), "mine")
	if err := os.WriteFile(python, []byte(stubProgram()), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("EMPO2_PYTHON", python)
	env, err := Ensure(t.Context(), opts)
	if err != nil || env.Python != python || env.Created || pips() != 0 {
		t.Fatalf("%+v, %v", env, err)
	}
	if e := events(); len(e) != 1 || !strings.HasPrefix(e[0].String(), "warning: "+python+" has demo 0.9") {
		t.Errorf("events: %v", e)
	}
	if r := Find(t.Context(), opts); r.Problem != nil || r.Ready != python {
		t.Errorf("report: %+v", r)
	}
	set(t, "STUB_STATE", `{"missing": ["demo==1.0"]}`)
	if _, err := Ensure(t.Context(), opts); err == nil ||
		!strings.Contains(err.Error(), "-m pip install 'demo==1.0'") {
		t.Errorf("without its packages: %v", err)
	}
	t.Setenv("EMPO2_PYTHON", filepath.Join(t.TempDir(), "absent"))
	if _, err := Ensure(t.Context(), opts); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

func TestInterruptedInstallationIsRepaired(t *testing.T) {
	opts, _, _ := stubbed(t, `STUB_PIP=echo "Installing collected packages: demo"; exec sleep 1000`)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stop := errors.New("interrupted")
	tell := opts.Progress
	opts.Progress = func(e Event) {
		tell(e)
		if e.Text == "installing 1 packages" {
			cancel(stop)
		}
	}
	if _, err := Ensure(ctx, opts); !errors.Is(err, stop) {
		t.Fatalf("got %v", err)
	}
	set(t, "STUB_PIP", "")
	if env, err := Ensure(t.Context(), opts); err != nil || !env.Created {
		t.Errorf("afterwards: %+v, %v", env, err)
	}
}

func TestConcurrentCallsCreateOneEnvironment(t *testing.T) {
	opts, _, pips := stubbed(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := Ensure(t.Context(), opts); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if pips() != 1 {
		t.Errorf("pip ran %d times", pips())
	}
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, func() { t.Error("waited for a free lock") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	if _, err := lock(ctx, path, func() { cancel(stop) }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	unlock()
	if unlock, err = lock(t.Context(), path, func() {}); err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestToolsGetACleanEnvironment(t *testing.T) {
	opts, _, _ := stubbed(t, "PYTHONHOME=/nowhere", "PIP_TARGET=/nowhere", "EMPO2_SERVER_KEY=s3cret",
		`STUB_PIP=echo "[$PYTHONHOME][$PIP_TARGET][$EMPO2_SERVER_KEY]"; exit 1`)
	if _, err := Ensure(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "[][][]") {
		t.Error(err)
	}
}

// pip inherits its own settings, and no keys; neither does a script that only looks.
func TestEnvironmentOfTools(t *testing.T) {
	t.Setenv("PIP_INDEX_URL", "https://index")
	program, check := processtest.Spy(t, "PIP_INDEX_URL=https://index")
	if _, err := stream(t.Context(), time.Minute, nil, program, "-m", "pip"); err == nil {
		t.Error("pip succeeded")
	}
	check()
	program, check = processtest.Spy(t)
	if _, err := ask(t.Context(), time.Minute, program, "pass"); err == nil {
		t.Error("the script succeeded")
	}
	check("PIP_INDEX_URL")
}

func TestInterpretersPrintAsText(t *testing.T) {
	for want, i := range map[string]Interpreter{
		"python3 3.11.9, /usr/bin/python3": {
			Name: "python3", Version: "3.11.9", Path: "/usr/bin/python3", Venv: true,
		},
		"python3.13, /opt/python3.13: it does not run": {
			Name: "python3.13", Path: "/opt/python3.13", Problem: "it does not run",
		},
	} {
		if got := i.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
