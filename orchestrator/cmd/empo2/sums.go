package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// largeFile is the size from which the checksum of a file is kept, because it
// takes seconds to compute.
const largeFile = 64 << 20

// sums keeps the checksums of large files between starts. A file is read again if
// its size or the time of its last change differs.
type sums struct {
	path  string
	known map[string]fileSum
	fresh bool // known has something that the file has not
}

type fileSum struct {
	Bytes   int64  `json:"bytes"`
	Changed int64  `json:"changed"` // nanoseconds since 1970
	SHA256  string `json:"sha256"`
}

// openSums reads the checksums in a file. A file that is missing or damaged has
// none.
func openSums(path string) *sums {
	s := &sums{path: path, known: map[string]fileSum{}}
	if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &s.known) != nil {
		s.known = map[string]fileSum{}
	}
	return s
}

// of returns the SHA-256 of a file in hexadecimal.
func (s *sums) of(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	now := fileSum{Bytes: info.Size(), Changed: info.ModTime().UnixNano()}
	before, ok := s.known[path]
	if now.SHA256 = before.SHA256; ok && info.Size() >= largeFile && now == before {
		return now.SHA256, nil
	}
	if now.SHA256, err = manifest.Sum(path); err != nil {
		return "", err
	}
	if info.Size() >= largeFile {
		s.known[path], s.fresh = now, true
	}
	return now.SHA256, nil
}

// save writes the checksums for the next start. If that is impossible, the next
// start computes them again.
func (s *sums) save() {
	text, err := json.Marshal(s.known)
	if err != nil || !s.fresh || os.MkdirAll(filepath.Dir(s.path), 0o755) != nil {
		return
	}
	scratch, err := os.CreateTemp(filepath.Dir(s.path), ".checksums-*")
	if err != nil {
		return
	}
	_, err = scratch.Write(text)
	if closeErr := scratch.Close(); err != nil || closeErr != nil || os.Rename(scratch.Name(), s.path) != nil {
		_ = os.Remove(scratch.Name()) // nothing depends on it
	}
}
