package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Every change of a file, of its name and of the manifest is found.
func TestVerify(t *testing.T) {
	f := func(what string, change func(dir string) error) {
		t.Helper()
		dir := t.TempDir()
		for name, text := range map[string]string{"a.bin": "some weights", "b.json": "{}"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := Write(dir, Adapter, map[string]any{"rank": 8}); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(dir, Adapter); err != nil {
			t.Fatalf("%s: before the change: %v", what, err)
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(dir, Adapter); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	write := func(name, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	}
	f("one letter", write("a.bin", "some Weights"))
	f("cut short", write("a.bin", "some"))
	f("longer", write("a.bin", "some weights and more"))
	f("empty", write("b.json", ""))
	f("removed", func(dir string) error { return os.Remove(filepath.Join(dir, "b.json")) })
	f("a folder of that name", func(dir string) error {
		return errors.Join(os.Remove(filepath.Join(dir, "b.json")), os.Mkdir(filepath.Join(dir, "b.json"), 0o755))
	})
	f("the manifest is removed", func(dir string) error { return os.Remove(filepath.Join(dir, Adapter)) })
	f("the manifest is cut", write(Adapter, `{"files": {"a.bin"`))
	f("the manifest is empty", write(Adapter, ""))
	f("the manifest lists nothing", write(Adapter, `{"files": {}}`))
	f("the manifest leaves the folder", write(Adapter, `{"files": {"../x": {"sha256": "", "bytes": 0}}}`))
	f("another checksum", write(Adapter, `{"files": {"a.bin": {"sha256": "00", "bytes": 12}}}`))
}
