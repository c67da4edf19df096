package scienceworld

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// recordings returns the path of a file of recordings: in the folder EMPO2_RECORDINGS,
// or else in ../shared/fixtures/scienceworld. Without the file the test is skipped.
func recordings(t *testing.T, file string) string {
	t.Helper()
	for _, dir := range recordingDirs(t) {
		if path := filepath.Join(dir, file); exists(path) {
			return path
		}
	}
	t.Skipf("\n*** NOT RUN: no %s of ScienceWorld. Set EMPO2_RECORDINGS to a folder with recordings. ***", file)
	return ""
}

func recordingDirs(t *testing.T) []string {
	if dir := os.Getenv("EMPO2_RECORDINGS"); dir != "" {
		return []string{dir, filepath.Join(dir, "scienceworld")}
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !exists(filepath.Join(dir, "go.mod")) {
		if dir == filepath.Dir(dir) {
			return nil
		}
		dir = filepath.Dir(dir)
	}
	return []string{filepath.Join(dir, "..", "shared", "fixtures", "scienceworld")}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// eachRecording decodes the lines of one type.
func eachRecording[T any](t *testing.T, path, kind string, f func(T)) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(z)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return
		}
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		var head struct{ Type string }
		if err := json.Unmarshal(line, &head); err != nil {
			t.Fatal(err)
		}
		if head.Type != kind {
			continue
		}
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		f(v)
	}
}
