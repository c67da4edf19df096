package trainerbridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// interpreter is a program that runs a shell script in place of Python.
func interpreter(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConvertRunsTheTrainer(t *testing.T) {
	out := filepath.Join(t.TempDir(), "model.gguf")
	c := Converter{Python: interpreter(t, `echo "$PWD $PYTHONPATH $*" >"$7"`), SourceDir: "trainer"}
	if err := c.Convert(t.Context(), "/models/some", out); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	source, _ := filepath.Abs("trainer")
	want := source + " " + source + " -m empo2_trainer gguf --model /models/some --out " + out + "\n"
	if err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

func TestConvertSaysWhatWentWrong(t *testing.T) {
	f := func(script string, want ...string) {
		t.Helper()
		err := Converter{Python: interpreter(t, script), SourceDir: "trainer"}.Convert(t.Context(), "/models/some",
			"/tmp/out")
		for _, text := range want {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%v, want %q", err, text)
			}
		}
	}
	f(`echo '{"event": "fatal", "error": "no such model", "hint": "name a folder"}' >&2; exit 1`,
		"no such model", "hint: name a folder")
	f(`echo Traceback; exit 3`, "exit status 3", "Traceback")
	err := Converter{Python: "/no-such-python", SourceDir: "trainer"}.Convert(t.Context(), "/models/some", "/tmp/out")
	if err == nil || !strings.Contains(err.Error(), "no-such-python") {
		t.Error(err)
	}
}

func TestFingerprintFollowsTheConverter(t *testing.T) {
	first, err := Converter{SourceDir: "trainer"}.Fingerprint()
	if err != nil || first == "" {
		t.Fatal(first, err)
	}
	dir := filepath.Join(t.TempDir(), "a[1]*")
	if _, err := (Converter{SourceDir: dir}).Fingerprint(); err == nil {
		t.Error("a folder without a converter has a fingerprint")
	}
	if err := os.CopyFS(dir, os.DirFS("trainer")); err != nil {
		t.Fatal(err)
	}
	if same, err := (Converter{SourceDir: dir}).Fingerprint(); err != nil || same != first {
		t.Errorf("%s, %v, want %s", same, err, first)
	}
	file := filepath.Join(dir, "empo2_trainer", "gguf_export.py")
	if err := os.WriteFile(file, []byte("# changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if other, err := (Converter{SourceDir: dir}).Fingerprint(); err != nil || other == first {
		t.Errorf("%s, %v", other, err)
	}
}
