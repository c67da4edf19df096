package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A badInput is a command that must be refused. The error names the place and a remedy.
type badInput struct {
	name  string
	files map[string]string // in the working folder
	args  []string
	place string // part of the error's text
	stdin string
	// prepare makes further files; may be nil.
	prepare func(t *testing.T)
	// serve answers at the URL that replaces "URL" in args; nil: there is no server.
	serve http.HandlerFunc
}

// TestBadInputs runs every bad input in a folder of its own. It fails for a wrong exit
// code, an error without place or hint, a value of Go in it, and for a file that was
// changed, made or lost. go test -v prints the number of inputs.
func TestBadInputs(t *testing.T) {
	t.Setenv("EMPO2_CACHE", t.TempDir())
	t.Setenv("EMPO2_PYTHON", "/no/such/python")
	total := 0
	for _, group := range []struct {
		name string
		all  []badInput
	}{
		{"values of keys", badKeys(t)}, {"configuration files", badFiles()}, {"keys", badCombinations()}, {"flags",
			badFlags()},
		{"model folders", badModels()}, {"safetensors files", badWeights()},
		{"tensors", badTensors()}, {"GGUF files", badGGUF()},
		{"prompt templates", badTemplates()}, {"demonstrations", badDemonstrations()}, {"tips", badTips()},
		{"environments", badEnvironments()}, {"descriptions of environments", badDescriptions()},
		{"ranges of tasks", badRanges()}, {"catalogues", badCatalogues()}, {"run folders", badRuns(t)},
		{"adapters and checkpoints", badAdapters(t)},
	} {
		for _, b := range group.all {
			t.Run(group.name+" "+b.name, func(t *testing.T) { b.check(t) })
		}
		t.Logf("%4d bad %s", len(group.all), group.name)
		total += len(group.all)
	}
	if t.Logf("%4d bad inputs", total); total < 300 {
		t.Errorf("%d bad inputs, want at least 300", total)
	}
}

// ofGo matches what only a programmer of empo2 understands.
var ofGo = regexp.MustCompile(`%!|map\[|goroutine |Traceback|0xc0|Go (struct|value)|&\{|<nil>|strconv\.|` +
	`\binterface \{\}|\[\](byte|string|any|int)|\*[a-z]+\.[A-Z]|` +
	`panic|runtime error|\.go:\d|unmarshal|\buint64|float64|toml\.`)

func (b badInput) check(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFiles(t, b.files)
	if b.prepare != nil {
		b.prepare(t)
	}
	args := slices.Clone(b.args)
	if b.serve != nil {
		server := httptest.NewServer(b.serve)
		defer server.Close()
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "URL", server.URL)
		}
	}
	before := folderSums(t)
	code, text := executeWith(t, b.stdin, args...)
	if code != exitUsage && code != exitFailed && (code != exitSetup || strings.Contains(text, "/no/such/python")) {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(text, b.place) || !strings.Contains(text, "hint: ") {
		t.Errorf("no %q, or no hint", b.place)
	}
	if strings.Count(text, "hint: ") > 1 {
		t.Error("several hints")
	}
	if found := ofGo.FindString(text); found != "" {
		t.Errorf("%q in the error", found)
	}
	if len(text) > 4000 {
		t.Errorf("the error has %d bytes", len(text))
	}
	if after := folderSums(t); !maps.Equal(before, after) {
		t.Errorf("files changed: %v, then %v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
	if t.Failed() {
		t.Logf("empo2 %.300q: %.2000s", args, text)
	}
}

// executeWith runs a command with a text on standard input, and returns its exit code
// and its messages.
func executeWith(t *testing.T, stdin string, args ...string) (code int, messages string) {
	t.Helper()
	in, err := os.Open(os.DevNull)
	if stdin != "" {
		path := filepath.Join(t.TempDir(), "stdin")
		if err := os.WriteFile(path, []byte(stdin), 0o600); err != nil {
			t.Fatal(err)
		}
		in, err = os.Open(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer func(before *os.File) { os.Stdin = before }(os.Stdin)
	os.Stdin = in
	var out, stderr bytes.Buffer
	code = execute(context.Background(), args, &out, &stderr)
	return code, stderr.String()
}

func writeFiles(t *testing.T, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// folderSums has the checksums of all files below the working folder, without those
// that SQLite and locks need while a run is open.
func folderSums(t *testing.T) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || slices.Contains(besideRuns, d.Name()) {
			return err
		}
		text, err := os.ReadFile(path)
		all[path] = sha256.Sum256(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var besideRuns = []string{"run.db-shm", "run.db-wal", "lock"}
