package scienceworld

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
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
			t.Errorf("left behind: %v", left)
		}
	}
	f("echo 'Error: could not create the heap' >&2; exit 1", time.Minute, "could not create the heap")
	f("echo hello; read x", time.Minute, `first line "hello\n"`)
	f("exec sleep 1000", 50*time.Millisecond, "no port within 50ms")
}

// The working directory holds the published table; the process ends with its
// standard input and the directory goes with it.
func TestJVMLifeCycle(t *testing.T) {
	l := fakeLauncher(t, "[ -s "+typeIDsName+" ] && echo 4711; yes 'a line that somebody has to read' | head -c 1000000; cat >/dev/null")
	j, err := l.launch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if j.port != 4711 {
		t.Errorf("port %d", j.port)
	}
	j.close()
	if !j.cmd.ProcessState.Success() {
		t.Errorf("ended by %v", j.cmd.ProcessState)
	}
	if exists(j.scratch) {
		t.Error("the scratch directory is left")
	}
}

func TestCleanEnviron(t *testing.T) {
	t.Setenv("JAVA_TOOL_OPTIONS", "-XX:hashCode=5")
	t.Setenv("EMPO2_TEST_KEEP", "1")
	kept := false
	for _, kv := range cleanEnviron() {
		if kv == "JAVA_TOOL_OPTIONS=-XX:hashCode=5" {
			t.Error("JAVA_TOOL_OPTIONS reaches the JVM")
		}
		kept = kept || kv == "EMPO2_TEST_KEEP=1"
	}
	if !kept {
		t.Error("other variables are lost")
	}
}
