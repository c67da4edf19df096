package orchestrator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/ledger"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A run whose steps are sampled and trained in turn stores what it has always stored:
// the golden file was written before sampling and training could overlap. Times differ
// between runs and are left out.
func TestARunInTurnStoresTheSameLedger(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the golden file has the last bits of floats, which differ between processors")
	}
	w := newWorld(t, small())
	if _, err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := ledgerText(t, w)
	path := filepath.Join("testdata", "ledger.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the ledger is another one (-want +got):\n%s", diff)
	}
}

// timesOf are the names of durations and moments in stored JSON.
var timesOf = map[string]bool{"took": true, "sample": true, "seconds": true, "phases": true, "train_seconds": true,
	"dir": true}

// ledgerText lists everything that a run has stored, times excepted: one line per row
// with a checksum of its content.
func ledgerText(t *testing.T, w *world) string {
	t.Helper()
	l, done := w.open()
	defer done()
	var out strings.Builder
	line := func(what string, values ...any) {
		sum := sha256.Sum256([]byte(fmt.Sprintln(values...)))
		fmt.Fprintf(&out, "%s %x\n", what, sum[:8])
	}
	ctx := context.Background()
	steps, err := l.Ledger.Steps(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		plan, err := l.Ledger.Plan(ctx, s.Step)
		if err != nil {
			t.Fatal(err)
		}
		line(fmt.Sprintf("plan %d", s.Step), string(plan))
		line(fmt.Sprintf("step %d version %d", s.Step, s.Version), withoutTimes(t, s.Metrics))
		episodes, err := l.Ledger.Episodes(ctx, s.Step)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range episodes {
			line(episodeName(e), e.Task, e.Mode, e.Version, e.Stop, e.EnvReturn, e.Score, e.Success,
				withoutTimes(t, e.Trajectory), e.Tokens, e.Logprobs)
		}
		estimates, err := l.Ledger.Estimates(ctx, s.Step)
		if err != nil {
			t.Fatal(err)
		}
		line(fmt.Sprintf("estimates %d", s.Step), estimates)
		for _, split := range []envs.Split{envs.Eval, envs.Test} {
			result, err := l.Ledger.Evaluation(ctx, s.Step, string(split))
			if err != nil {
				t.Fatal(err)
			}
			if result != nil {
				line(fmt.Sprintf("%s %d", split, s.Step), withoutTimes(t, result))
			}
		}
	}
	var bank bytes.Buffer
	if err := l.Memory.(*memory.Bank).Export(ctx, &bank); err != nil {
		t.Fatal(err)
	}
	line("memory", bank.String())
	return out.String()
}

func episodeName(e ledger.Episode) string {
	return fmt.Sprintf("episode %d/%d/%d", e.Step, e.Group, e.Episode)
}

// withoutTimes returns JSON without the values of timesOf, with sorted keys.
func withoutTimes(t *testing.T, text []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	clean(v)
	sorted, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(sorted)
}

func clean(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if timesOf[k] {
				delete(v, k)
				continue
			}
			clean(inner)
		}
	case []any:
		for _, inner := range v {
			clean(inner)
		}
	}
}
