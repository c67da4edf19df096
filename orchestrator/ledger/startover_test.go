package ledger

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// startFails writes what a failed start leaves in a run.
func startFails(t *testing.T, dir string) *Ledger {
	t.Helper()
	l := open(t, dir)
	ctx := t.Context()
	_, err := l.DB().ExecContext(ctx, "CREATE TABLE memory_tips(id INTEGER); INSERT INTO memory_tips VALUES(1)")
	err = errors.Join(err, l.SaveConfig(ctx, "[run]\n"), l.SavePins(ctx, 0, map[string]string{"model": "a"}, ""),
		l.SavePrompt(ctx, "x", "text"), l.Event(ctx, 1, "trainer restart", "why"), l.Event(ctx, 0, "environment", "{}"),
		l.SavePlan(ctx, 1, json.RawMessage("{}")), l.SavePieces(ctx, map[int32]string{5: "five"}))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A run whose start failed has nothing to keep, so the next start begins as if it were
// the first. Restarts stay events.
func TestAFailedStartLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	l := startFails(t, dir)
	if begun, err := l.Begun(t.Context()); begun || err != nil {
		t.Fatalf("begun is %t, %v", begun, err)
	}
	if err := l.StartOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	config, err := l.Config(t.Context())
	pins, pinErr := l.Pins(t.Context())
	plan, planErr := l.Plan(t.Context(), 1)
	if err := errors.Join(err, pinErr, planErr); err != nil || config != "" || len(pins) > 0 || plan != nil {
		t.Errorf("config %q, pins %v, plan %s, %v", config, pins, plan, err)
	}
	var foreign int
	const query = "SELECT count(*) FROM sqlite_master WHERE name = 'memory_tips'"
	err = l.DB().QueryRowContext(t.Context(), query).Scan(&foreign)
	if err != nil || foreign != 0 {
		t.Errorf("a table of another package is left: %v", err)
	}
	events, err := l.Events(t.Context(), 9)
	if err != nil || len(events) != 1 || events[0].Kind != "trainer restart" {
		t.Errorf("events %v, %v", events, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := found(t, dir); got != "" {
		t.Errorf("check: %s", got)
	}
}

// Imported tips outlive a failed start.
func TestImportedTipsStay(t *testing.T) {
	ctx := t.Context()
	l := startFails(t, t.TempDir())
	tx, err := l.DB().BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(l.SaveImport(ctx, tx, "{}"), tx.Commit(), l.StartOver(ctx))
	imports, _, readErr := l.Imports(ctx)
	pins, pinErr := l.Pins(ctx)
	tips, countErr := rowsOf(ctx, l.DB(), "memory_tips")
	err = errors.Join(err, readErr, pinErr, countErr, l.Close())
	if err != nil || len(imports) != 1 || tips != 1 || len(pins) != 0 {
		t.Errorf("imports %v, tips %d, pins %v, %v", imports, tips, pins, err)
	}
	if got := found(t, l.Dir); got != "" {
		t.Errorf("check: %s", got)
	}
}

func TestWhatHasBegun(t *testing.T) {
	ctx := t.Context()
	for name, do := range map[string]func(l *Ledger) error{
		"an episode": func(l *Ledger) error {
			return l.AddEpisode(ctx, Episode{Step: 1, Trajectory: json.RawMessage("{}")})
		},
		"an episode of an evaluation": func(l *Ledger) error {
			return l.AddEpisode(ctx, Episode{Kind: "eval", Trajectory: json.RawMessage("{}")})
		},
		"an evaluation": func(l *Ledger) error { return l.SaveEvaluation(ctx, 0, "eval", 0, json.RawMessage("{}")) },
		"a checkpoint":  func(l *Ledger) error { return os.Mkdir(filepath.Join(l.Dir, "checkpoints", "000001"), 0o700) },
		"an adapter":    func(l *Ledger) error { return os.Mkdir(filepath.Join(l.Dir, "adapters", "v000001"), 0o700) },
	} {
		dir := t.TempDir()
		l := startFails(t, dir)
		if err := do(l); err != nil {
			t.Fatal(err)
		}
		begun, err := l.Begun(ctx)
		if !begun || err != nil {
			t.Errorf("%s: begun is %t, %v", name, begun, err)
		}
		if !Begun(ctx, dir) {
			t.Errorf("%s: a run that is open elsewhere has not begun", name)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if !Begun(ctx, dir) {
			t.Errorf("%s: has not begun", name)
		}
	}
	if Begun(ctx, t.TempDir()) {
		t.Error("an empty folder has begun")
	}
}
