package scienceworld

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process/processtest"
)

// fakeLauncher starts a shell script in place of a JVM.
func fakeLauncher(t *testing.T, script string) launcher {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	dir := t.TempDir()
	return launcher{
		java:    java{path: writeFile(t, filepath.Join(dir, "java"), "#!/bin/sh\n"+script, 0o755)},
		jar:     jar{path: "x.jar", typeIDs: writeFile(t, filepath.Join(dir, typeIDsName), "a\t1\n", 0o644)},
		timeout: time.Minute, log: zerolog.Nop(),
	}
}

func TestJVMThatDoesNotStart(t *testing.T) {
	f := func(script string, timeout time.Duration, want string) {
		t.Helper()
		l := fakeLauncher(t, script)
		l.timeout = timeout
		_, err := l.launch(t.Context())
		fails(t, err, want)
		if left, _ := os.ReadDir(os.TempDir()); len(left) != 0 {
			t.Errorf("files that remain: %v", left)
		}
	}
	f("echo 'Error: could not create the heap' >&2; exit 1", time.Minute, "could not create the heap")
	f("echo hello; read x", time.Minute, `first line "hello"`)
	f("exec sleep 1000", 50*time.Millisecond, "not ready within 50ms")
}

// The working directory has the published table. The process ends with its
// stdin, and then the directory is removed.
func TestJVMLifeCycle(t *testing.T) {
	l := fakeLauncher(t, "[ -s "+typeIDsName+" ] && echo 4711; "+
		"yes 'a line that must be read' | head -c 1000000; cat >/dev/null")
	j, err := l.launch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if j.port != 4711 {
		t.Errorf("port %d", j.port)
	}
	j.close()
	if err := j.Err(); !strings.Contains(err.Error(), "exit status 0") {
		t.Error(err)
	}
	if exists(j.scratch) {
		t.Error("the scratch directory still exists")
	}
}

// The JVM inherits no JVM flags, which would change scores without a trace, and
// no API keys.
func TestEnvironmentOfTheJVM(t *testing.T) {
	t.Setenv("NAMED", "by the user")
	t.Setenv("HTTPS_PROXY", "http://proxy")
	l := fakeLauncher(t, "exit 1")
	program, check := processtest.Spy(t, "NAMED=by the user")
	l.java.path, l.inherit = program, []string{"NAMED"}
	_, err := l.launch(t.Context())
	fails(t, err, "no port in the JVM")
	check("HTTPS_PROXY")
	program, check = processtest.Spy(t)
	_, err = findJava(t.Context(), program, true)
	fails(t, err, "-version")
	check("HTTPS_PROXY")
}
