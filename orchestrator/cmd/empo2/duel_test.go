package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// The tasks that changed most are listed first, in both directions, and what is left
// out is counted.
func TestABListsTheTasksThatChangedMost(t *testing.T) {
	var stdout bytes.Buffer
	d := duel{abCmd: &abCmd{Measure: "return"}, console: newConsole(&stdout, &stdout),
		sides: [2]*side{{name: "A"}, {name: "B"}}, ledger: &ledger.Ledger{}}
	var played playedPairs
	for i, returns := range [][2]float64{{0, 0}, {0, 0.5}, {1, 1}, {1, 0}, {0.5, 0.75}} {
		d.tasks = append(d.tasks, envs.Task{ID: "task-" + string(rune('a'+i))})
		played.matches = append(played.matches, match{task: i,
			played: [2]rollout.Trajectory{{EnvReturn: returns[0]}, {EnvReturn: returns[1]}}})
	}
	for limit, want := range map[int]string{
		0: "task-d task-b task-e task-a task-c",
		1: "task-d / 1 of 5 tasks; --limit 0 lists all",
		3: "task-d task-b task-e / 3 of 5 tasks; --limit 0 lists all",
		5: "task-d task-b task-e task-a task-c",
	} {
		stdout.Reset()
		d.Limit = limit
		d.printTasks(d.compared(played))
		lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
		if lines[0] != "B against A: 2 tasks improved, 1 worsened, 2 equal" {
			t.Errorf("--limit %d: %q", limit, lines[0])
		}
		var listed []string
		for _, line := range lines[2:] {
			if strings.Contains(line, " of ") {
				listed = append(listed, "/", line)
				continue
			}
			words := strings.Fields(line)
			listed = append(listed, words[len(words)-1])
		}
		if got := strings.Join(listed, " "); got != want {
			t.Errorf("--limit %d lists %q, want %q", limit, got, want)
		}
	}
}

// Every JSON line has a time and the version of its schema, whatever command prints it.
func TestJSONLinesHaveTimeAndSchema(t *testing.T) {
	var stdout bytes.Buffer
	begun := time.Now()
	newConsole(&stdout, &stdout).json("tip", map[string]int{"number": 1})
	var line struct {
		Event  string
		Schema int
		At     time.Time
		Data   map[string]int
	}
	if err := json.Unmarshal(stdout.Bytes(), &line); err != nil || line.Event != "tip" || line.Schema != jsonSchema ||
		line.At.Before(begun) || line.Data["number"] != 1 {
		t.Errorf("%v: %s", err, &stdout)
	}
}

// A comparison is listed as one, and commands about runs say what it is.
func TestAComparisonIsNoEmptyRun(t *testing.T) {
	t.Chdir(t.TempDir())
	dir := filepath.Join("runs", "ab", "0123456789ab")
	l, err := ledger.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for step := range int64(2) {
		record, err := orchestrator.UntrainedEpisode(
			rollout.Trajectory{Step: step + 1}, kindPair)
		if err == nil {
			err = l.AddEpisode(t.Context(), record)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	listed, _ := empo2(t, 0, "ls")
	if !strings.Contains(listed, "0123456789ab") || !strings.Contains(listed, " ab ") ||
		!strings.Contains(listed, " 1 pair ") {
		t.Errorf("ls: %s", listed)
	}
	for _, args := range [][]string{{"status", dir}, {"status", "ab/0123456789ab"}, {"view", dir},
		{"export", dir, "--format", "csv"}} {
		stdout, stderr := empo2(t, exitUsage, args...)
		if stdout != "" || !strings.Contains(stderr, "is a comparison of prompts") ||
			!strings.Contains(stderr, "--kind ab lists") {
			t.Errorf("%v: %s%s", args, stdout, stderr)
		}
	}
	if dirs, err := view.Find(t.Context(), "runs"); err != nil || len(dirs) != 1 || !view.IsComparison(dirs[0]) {
		t.Errorf("found %q, %v", dirs, err)
	}
	if view.IsComparison(filepath.Join("runs", "ab", "mine")) || view.IsComparison(filepath.Join("runs", "0123456789ab")) {
		t.Error("a run counts as a comparison")
	}
}

// A side's replies that are cut off or have no action are counted.
func TestRepliesOfASide(t *testing.T) {
	played := rollout.Trajectory{Turns: []rollout.Turn{{Action: "north"}, {Text: "<think>nor"},
		{Action: "nor", Finish: sampler.FinishLength}, {Action: "south"}}}
	got := sideResultOf("A", []match{{played: [2]rollout.Trajectory{played, {}}}}, 0)
	if got.Cut != 0.25 || got.Empty != 0.25 {
		t.Errorf("%+v", got)
	}
}
