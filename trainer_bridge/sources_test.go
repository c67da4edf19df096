package trainerbridge

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestSourcesAreExtractedOnceAndRepaired(t *testing.T) {
	cache := t.TempDir()
	dir, err := ExtractSources(cache)
	if err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(dir, "empo2_trainer", "__main__.py")
	want, err := os.ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(main)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ExtractSources(cache); err != nil || again != dir {
		t.Fatalf("again: %s, %v", again, err)
	}
	if after, err := os.Stat(main); err != nil || !os.SameFile(before, after) {
		t.Errorf("a correct file was written again (%v)", err)
	}
	damage := map[string]func() error{
		"cut short": func() error { return os.Truncate(main, 3) },
		"removed":   func() error { return os.RemoveAll(filepath.Dir(main)) },
	}
	for name, do := range damage {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if _, err := ExtractSources(cache); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(main); err != nil || string(got) != string(want) {
			t.Errorf("%s: not repaired (%v)", name, err)
		}
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if strings.HasPrefix(d.Name(), ".") || strings.HasSuffix(path, ".pyc") {
			t.Errorf("left or extracted by mistake: %s", path)
		}
		return err
	})
}

func TestSourcesOmitCachesAndTests(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	files, hash, err := sources(fstest.MapFS{
		"trainer/p/__init__.py": file("1"), "trainer/p/weights/w.bin": file("2"),
		"trainer/p/__pycache__/a.pyc": file("3"), "trainer/p/b.pyc": file("4"),
		"trainer/tests/t.py": file("5"), "trainer/.venv/x": file("6"), "trainer/.hidden": file("7"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"p/__init__.py": []byte("1"), "p/weights/w.bin": []byte("2")}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}
	_, other, err := sources(fstest.MapFS{"trainer/p/__init__.py": file("1"), "trainer/p/weights/w.bin": file("!")})
	if err != nil || len(hash) != 12 || hash == other {
		t.Errorf("hashes %s and %s (%v)", hash, other, err)
	}
}

func TestSourcesHaveTheVaultsWeightsButNotTheirPreTraining(t *testing.T) {
	dir, err := ExtractSources(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(VaultModel(dir), "model.safetensors")); err != nil {
		t.Error(err)
	}
	code, err := filepath.Glob(filepath.Join(dir, "vault_pretraining", "*.py"))
	if err != nil || len(code) > 0 {
		t.Errorf("extracted too: %v (%v)", code, err)
	}
}

func TestRequirementsArePinned(t *testing.T) {
	got := Requirements()
	if len(got) == 0 {
		t.Fatal("none")
	}
	for _, r := range got {
		if !strings.Contains(r, "==") {
			t.Errorf("%s is not pinned", r)
		}
	}
}
