// Package manifest verifies folders that the trainer wrote: adapters, checkpoints
// and warm-started models. The manifest of a folder is a JSON file in it, which lists the
// SHA-256 and the size of every other file.
package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// The names of the manifests.
const (
	Adapter    = "manifest.json"
	Checkpoint = "meta.json"
	WarmStart  = "warmstart.json"
)

// ErrDamaged is wrapped by the error for a file that is missing or differs from
// its manifest, and for a manifest that is missing or cannot be read.
var ErrDamaged = errors.New("the files are damaged")

// A File is one line of a manifest.
type File struct {
	SHA256 string `json:"sha256"` // in hexadecimal
	Bytes  int64  `json:"bytes"`
}

// A Manifest lists the files of a folder by their names.
type Manifest struct {
	Files map[string]File
	// SHA256 is the checksum of the manifest itself, in hexadecimal.
	SHA256 string
}

// maxBytes is the largest manifest.
const maxBytes = 1 << 20

// Read reads the manifest called name in a folder. It does not look at the other
// files.
func Read(dir, name string) (Manifest, error) {
	path := filepath.Join(dir, name)
	text, err := readFile(path)
	if err != nil {
		return Manifest{}, err
	}
	var m struct {
		Files map[string]File `json:"files"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %s: %w", ErrDamaged, path, safetext.JSONError(err))
	}
	if len(m.Files) == 0 {
		return Manifest{}, fmt.Errorf("%w: %s lists no files", ErrDamaged, path)
	}
	for file, about := range m.Files {
		if about.Bytes < 0 {
			return Manifest{}, fmt.Errorf("%w: %s lists %q with %d bytes", ErrDamaged, path, file, about.Bytes)
		}
		if !filepath.IsLocal(file) || filepath.Base(file) != file || file == name || file == "." {
			return Manifest{}, fmt.Errorf("%w: %s lists %q, which is not the name of a file", ErrDamaged, path, file)
		}
	}
	sum := sha256.Sum256(text)
	return Manifest{Files: m.Files, SHA256: hex.EncodeToString(sum[:])}, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", ErrDamaged, path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return text, nil
}

// Verify reads the manifest of a folder and compares every file with it.
func Verify(dir, name string) (Manifest, error) {
	m, err := Read(dir, name)
	if err != nil {
		return m, err
	}
	for _, file := range slices.Sorted(maps.Keys(m.Files)) {
		if err := m.Files[file].verify(filepath.Join(dir, file)); err != nil {
			return m, err
		}
	}
	return m, nil
}

// verify compares the size first, which needs no reading.
func (f File) verify(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is missing", ErrDamaged, path)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is not a file", ErrDamaged, path)
	case info.Size() != f.Bytes:
		return fmt.Errorf("%w: %s has %d bytes, its manifest says %d", ErrDamaged, path, info.Size(), f.Bytes)
	}
	sum, err := Sum(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if sum != f.SHA256 {
		return fmt.Errorf("%w: the content of %s differs from its manifest", ErrDamaged, path)
	}
	return nil
}

// Sum returns the SHA-256 of a file in hexadecimal.
func Sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Write writes the manifest of a folder: one line for each of its files.
func Write(dir, name string, about map[string]any) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	files := map[string]File{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.Name() == name || !info.Mode().IsRegular() {
			continue
		}
		sum, err := Sum(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		files[e.Name()] = File{SHA256: sum, Bytes: info.Size()}
	}
	all := map[string]any{"files": files}
	maps.Copy(all, about)
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), append(text, '\n'), 0o644)
}
