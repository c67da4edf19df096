package trainerbridge

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// The trainer's sources and the vault's base policy travel in the binary.
//
//go:embed all:trainer/empo2_trainer trainer/pyproject.toml
var trainerFS embed.FS

// VaultModel is where the vault's base policy lies within extracted sources.
func VaultModel(sourceDir string) string {
	return filepath.Join(sourceDir, "empo2_trainer", "vault", "weights")
}

// Requirements are the trainer's Python requirements, as its pyproject.toml
// pins them.
func Requirements() []string {
	var p struct {
		Project struct {
			Dependencies []string `toml:"dependencies"`
		} `toml:"project"`
	}
	if _, err := toml.DecodeFS(trainerFS, "trainer/pyproject.toml", &p); err != nil {
		panic(err) // the file is part of this program
	}
	return p.Project.Dependencies
}

// ExtractSources writes the trainer's sources into a directory of cacheDir
// that is named after their content, and returns its absolute path. What is
// already there is checked byte by byte and, where damaged, written again.
// Several processes may do so at the same time.
func ExtractSources(cacheDir string) (string, error) {
	files, name, err := sources(trainerFS)
	if err != nil {
		return "", fmt.Errorf("extract trainer: %w", err)
	}
	dir, err := filepath.Abs(filepath.Join(cacheDir, "trainer-"+name))
	if err != nil {
		return "", fmt.Errorf("extract trainer: %w", err)
	}
	for rel, content := range files {
		if err := restore(filepath.Join(dir, filepath.FromSlash(rel)), content); err != nil {
			return "", fmt.Errorf("extract trainer to %s: %w\n  hint: EMPO2_CACHE names another cache directory", dir, err)
		}
	}
	return dir, nil
}

// sources are the embedded files by path below trainer/, and the hash of all.
func sources(fsys fs.FS) (files map[string][]byte, hash string, err error) {
	files = map[string][]byte{}
	sum := sha256.New()
	err = fs.WalkDir(fsys, "trainer", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := path.Base(p); base == "__pycache__" || base == "tests" || strings.HasPrefix(base, ".") {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(p, ".pyc") || strings.HasPrefix(path.Base(p), ".") {
			return nil
		}
		b, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, "trainer/")
		files[rel] = b
		fmt.Fprintf(sum, "%s %x\n", rel, sha256.Sum256(b))
		return nil
	})
	return files, hex.EncodeToString(sum.Sum(nil))[:12], err
}

// restore makes a file hold the content, in one step for those who read it.
func restore(file string, content []byte) error {
	old, err := os.ReadFile(file)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Chmod(tmp.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	return err
}
