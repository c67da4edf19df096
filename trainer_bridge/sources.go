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

// The binary contains the trainer's sources and the base policy of the
// environment vault, but not the code that pre-trained that policy.
//
//go:embed all:trainer/empo2_trainer trainer/vault_pretraining/weights trainer/pyproject.toml
var trainerFS embed.FS

// VaultModel returns the folder of the vault's base policy within extracted
// sources.
func VaultModel(sourceDir string) string {
	return filepath.Join(sourceDir, "vault_pretraining", "weights")
}

// Requirements returns the trainer's Python requirements as pyproject.toml pins
// them.
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
// that is named after their content, and returns its absolute path. It compares
// files that exist with the binary's and replaces those that differ. Several
// processes may call it at the same time.
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

// sources returns the embedded files by their path below trainer/, and a hash
// over all of them.
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

// restore gives a file the content. It replaces the file atomically, so that no
// reader sees a part of it.
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
