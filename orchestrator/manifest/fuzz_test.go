package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A manifest lists only names of files in its folder, and every refusal says that the
// files are damaged and names the manifest.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"files": {"a": {"sha256": "00", "bytes": 1}}}`))
	f.Add([]byte(`{"files": {"../a": {"sha256": "", "bytes": -1}}}`))
	f.Add([]byte(`{"files": {}}`))
	f.Add([]byte(`{"files": {".": {}, "": {}}}`))
	f.Add([]byte(`[`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, Adapter)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := Read(dir, Adapter)
		if err != nil {
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Fatal(err)
			}
			return
		}
		for name, file := range m.Files {
			if parent := filepath.Dir(filepath.Join(dir, name)); parent != dir || name == Adapter || file.Bytes < 0 {
				t.Fatalf("%q of %d bytes is accepted", name, file.Bytes)
			}
		}
	})
}
