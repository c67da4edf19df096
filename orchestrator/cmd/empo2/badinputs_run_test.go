package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// badRuns has folders that are no runs, damaged files of a run, and backups that cannot be
// written.
func badRuns(t *testing.T) (all []badInput) {
	add := func(place string, files map[string]string, args ...string) {
		all = append(all, badInput{name: fmt.Sprintf("%d %s", len(all), args[0]), files: files, args: args,
			place: place})
	}
	for _, command := range []string{"check", "status"} {
		add("none", nil, command, "none")
		add("", nil, command, "")
		add("runs/x", map[string]string{"runs/x/notes.txt": "x"}, command, "runs/x")
		add("notes.txt", map[string]string{"notes.txt": "x"}, command, "notes.txt")
	}
	for _, text := range []string{"", "{", "3", "[]", `{"pid": "x"}`, `{"started": 1}`, `{"updated": "yesterday"}`,
		"\xff\xfe",
		`{"pid": 1e99}`, `{"oldest": 3}`, "<html>"} {
		add("status.json", map[string]string{"runs/x/status.json": text}, "status", "runs/x")
	}
	add("none", nil, "backup", "none", "b.tar")
	add("none", nil, "eval", "--profile", "demo", "--set", "run.name=none")
	add("none", nil, "memory", "export", "--profile", "demo", "--set", "run.name=none")
	return append(all, damagedRuns(t)...)
}

// goodBank is a bank with one tip.
const goodBank = `{"kind":"bank","format":1}` + "\n" +
	`{"kind":"tip","tip":{"id":1,"scope":"s","text":"a"},"states":["b"]}`

// damagedRuns has copies of a run with tips whose files are damaged.
func damagedRuns(t *testing.T) (all []badInput) {
	t.Chdir(t.TempDir())
	if code, text := executeWith(t, goodBank, "memory", "import", "--profile", "demo", "--set", "run.name=x"); code != 0 {
		t.Fatal(text)
	}
	database, err := os.ReadFile("runs/x/run.db")
	if err != nil {
		t.Fatal(err)
	}
	good := string(database)
	stored := strings.Index(good, "[rollout]") // of the configuration
	if stored < 0 {
		t.Fatal("the configuration is not in run.db")
	}
	zeros := strings.Repeat("\x00", len(good))
	damages := map[string]string{
		"empty": "", "no database": "hello", "a header only": good[:100], "cut": good[:len(good)/2], "zeros": zeros,
		"a page of zeros": good[:4096] + zeros[:4096] + good[8192:], "another header": "SQLite format 4" + good[15:],
		"a flipped page": flipped(good, 4096, 4096), "text in the middle": flipped(good, stored, 2048),
	}
	commands := [][]string{{"check", "x"}, {"backup", "x", "b.tar"},
		{"memory", "export", "--profile", "demo", "--set", "run.name=x"},
		{"eval", "--profile", "demo", "--set", "run.name=x"}}
	for name, content := range damages {
		for _, args := range commands {
			if name == "text in the middle" && args[0] != "check" && args[0] != "backup" {
				continue // what these read is not damaged
			}
			all = append(all, badInput{name: "run.db is " + name + ": " + args[0], place: "run", args: args,
				files: map[string]string{"runs/x/run.db": content, "runs/x/adapters/v000001/manifest.json": "{}"}})
		}
	}
	whole := map[string]string{"runs/x/run.db": good}
	for _, args := range commandLines("backup x . ; backup x none/b.tar ; backup x /dev/null/b.tar ; backup x '' ; " +
		"backup x runs/x/run.db ; plan --profile demo --set run.name=x --check ; demos --profile demo --run x --out o") {
		all = append(all, badInput{name: strings.Join(args, " "), args: args, files: whole})
	}
	return append(all, badInput{name: "a folder for run.db", place: "run.db", args: []string{"check", "runs/x"},
		prepare: func(t *testing.T) {
			if err := os.MkdirAll(filepath.Join("runs", "x", "run.db"), 0o755); err != nil {
				t.Fatal(err)
			}
		}})
}

// flipped has n bytes of text inverted.
func flipped(text string, from, n int) string {
	b := []byte(text)
	for i := from; i < min(from+n, len(b)); i++ {
		b[i] = ^b[i]
	}
	return string(b)
}
