package page

import (
	"os"
	"path/filepath"
	"testing"
)

// Comparisons of prompts lie below the runs, and are not listed as such.
func TestComparisonsAreNoRuns(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"vault", "ab/0123456789ab"} {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "run.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := newRuns([]string{root}).locate(t.Context())
	if err != nil || len(found) != 1 || found[0].name != "vault" {
		t.Errorf("found %v, %v", found, err)
	}
}
