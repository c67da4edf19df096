package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/manifest"
)

// The folders of version 1 of the run x.
const (
	adapterOfX    = "runs/x/adapters/v000001"
	checkpointOfX = "runs/x/checkpoints/000001"
)

// trainedRun makes the run x with a step and its version, and returns its files.
func trainedRun(t *testing.T) map[string]string {
	t.Helper()
	t.Chdir(t.TempDir())
	l, err := openLedger(t.Context(), load(t, "run.name=x"))
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for dir, name := range map[string]string{adapterOfX: manifest.Adapter, checkpointOfX: manifest.Checkpoint} {
		err := os.MkdirAll(dir, 0o755)
		for _, file := range []string{"adapter_model.safetensors", "adapter_config.json"} {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), []byte("the content of "+file), 0o600))
		}
		if err := errors.Join(err, manifest.Write(dir, name, nil)); err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Read(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		for file, about := range m.Files {
			sums[file] = about.SHA256
		}
	}
	err = errors.Join(l.SavePlan(t.Context(), 1, json.RawMessage("{}")),
		l.Commit(t.Context(), ledger.Step{Step: 1, Version: 1, Metrics: json.RawMessage("{}")},
			&ledger.Version{Version: 1, Step: 1, Dir: adapterOfX, Files: sums}, nil), l.Close())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for path := range folderSums(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = string(text)
	}
	return files
}

// badManifests are manifests that are wrong. good is the right one.
func badManifests(good string) []string {
	const sum = `"sha256": "0000000000000000000000000000000000000000000000000000000000000000"`
	return []string{"", "{", "[]", "3", "null", "{}", "<html>", "\xff\xfe", good[:len(good)/2], good + "x",
		`{"files": null}`, `{"files": []}`, `{"files": {}}`, `{"files": 3}`, `{"files": {"a": 3}}`,
		`{"files": {"a": {"bytes": "x"}}}`, `{"files": {"a": {"bytes": -1, ` + sum + `}}}`,
		`{"files": {"a": {"bytes": 1.5, ` + sum + `}}}`, `{"files": {"a": {"bytes": 1e300, ` + sum + `}}}`,
		`{"files": {"a": {"bytes": 0, ` + sum + `}}}`, `{"files": {"../config.toml": {"bytes": 0, ` + sum + `}}}`,
		`{"files": {"/etc/hostname": {"bytes": 0, ` + sum + `}}}`, `{"files": {".": {"bytes": 0, ` + sum + `}}}`,
		`{"files": {"": {"bytes": 0, ` + sum + `}}}`, `{"files": {"a/b": {"bytes": 0, ` + sum + `}}}`,
		`{"files": {"manifest.json": {"bytes": 0, ` + sum + `}, "meta.json": {"bytes": 0, ` + sum + `}}}`,
		strings.Replace(good, `"bytes": 3`, `"bytes": 4`, 1), strings.Replace(good, `"sha256": "`, `"sha256": "f`, 1),
		strings.Replace(good, "adapter_config.json", "adapter_confug.json", 1), strings.Repeat(" ", 1<<20+1) + good,
	}
}

// badAdapters has runs whose adapter or checkpoint is damaged or another one.
func badAdapters(t *testing.T) (all []badInput) {
	good := trainedRun(t)
	uses := map[string][][]string{
		adapterOfX:    {{"try", "x"}, {"ab", "x@1", "x@0"}, {"ab", "x@0", "x@1", "--until", "decided"}},
		checkpointOfX: {{"run", "--profile", "demo", "--set", "run.name=x"}, {"check", "x"}, {"backup", "x", "b.tar"}},
	}
	manifests := map[string]string{adapterOfX: manifest.Adapter, checkpointOfX: manifest.Checkpoint}
	add := func(name, dir string, n int, files map[string]string) {
		args, place := uses[dir][n%len(uses[dir])], filepath.Base(dir)
		if args[0] == "check" { // it lists the places on standard output
			place = "runs/x"
		}
		all = append(all, badInput{name: fmt.Sprintf("%s: %s %d", dir, name, n), files: files, place: place, args: args})
	}
	for dir, name := range manifests {
		path := filepath.Join(dir, name)
		for n, text := range badManifests(good[path]) {
			add(fmt.Sprintf("manifest %.30q", text), dir, n, with(good, path, text))
		}
		weights := filepath.Join(dir, "adapter_model.safetensors")
		text := good[weights]
		for n, other := range []string{"", text[1:], text + "x", "x" + text[1:], text[:len(text)-1] + "X"} {
			add("weights", dir, n, with(good, weights, other))
		}
		for n, file := range []string{path, weights} {
			files := with(good, file, "")
			delete(files, file)
			add("without "+filepath.Base(file), dir, n, files)
		}
		files := with(good, path, strings.Replace(good[path], `"files"`, `"other": 1, "files"`, 1))
		if dir == checkpointOfX { // its manifest itself is recorded
			add("another manifest", dir, 0, files)
		}
	}
	return all
}
