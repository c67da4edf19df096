package ledger

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fullRun writes a run that has rows in every table, and closes it.
func fullRun(t *testing.T, dir string) {
	t.Helper()
	l := twoSteps(t, dir, true)
	tx, err := l.DB().BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(l.SaveImport(t.Context(), tx, "{}"), tx.Commit(), l.SaveConfig(t.Context(), "[run]\n"),
		l.SaveConfig(t.Context(), "[run]\n"), l.SavePins(t.Context(), 1, map[string]string{"model": "a"}, "model"),
		l.SavePins(t.Context(), 1, map[string]string{"model": "b", "template": "c"}, ""),
		l.SaveEvaluation(t.Context(), 1, "eval", 0, json.RawMessage(`{}`)),
		l.SaveEvaluation(t.Context(), 1, "test", 0, json.RawMessage(`{}`)),
		l.DropEvaluation(t.Context(), 1, "test"), l.SavePrompt(t.Context(), "x", "text"),
		l.AddEpisode(t.Context(), Episode{Step: 1, Kind: "eval", Trajectory: json.RawMessage(`{}`)}),
		l.DropUntrained(t.Context(), "eval", 1), l.Event(t.Context(), 1, "restart", "why"),
		l.SavePieces(t.Context(), map[int32]string{5: "five", 6: "six"}),
		l.SavePieces(t.Context(), map[int32]string{5: "five"}), l.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// change makes a change to run.db behind the ledger's back.
func change(t *testing.T, dir, query string) {
	t.Helper()
	db, err := connect(t.Context(), filepath.Join(dir, databaseName), writing)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), query)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// found returns what a check of the run finds, one line per problem.
func found(t *testing.T, dir string) string {
	t.Helper()
	r, err := Verify(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, p := range r.Problems {
		lines = append(lines, p.Place+": "+p.Detail)
	}
	return strings.Join(lines, "\n")
}

func TestMissingRowsAreFound(t *testing.T) {
	for query, want := range map[string]string{
		"":                                      "",
		"DELETE FROM pins WHERE name = 'model'": "table pins: 1 of 2 rows are missing",
		"DELETE FROM evaluations":               "table evaluations: 1 of 1 rows are missing",
		"DELETE FROM untrained":                 "table untrained: 1 of 1 rows are missing",
		"DELETE FROM estimates WHERE step = 1":  "table estimates: 1 of 1 rows are missing",
		"DELETE FROM events WHERE id = 1":       "table events: 1 of ",
		"DELETE FROM imports":                   "table imports: 1 of 1 rows are missing",
		"DELETE FROM episodes WHERE step = 2":   "table episodes: 1 of 4 rows are missing",
		"DELETE FROM steps":                     "table steps: 1 of 1 rows are missing",
		"DELETE FROM meta":                      "table meta: the numbers of rows are missing",
		"DELETE FROM meta WHERE key = 'rows'":   "table meta: the numbers of rows are missing",
		"DELETE FROM pieces WHERE id = 6":       "table pieces: 1 of 2 rows are missing",
		"UPDATE pieces SET text = 'HACKED'":     "table pieces: the text of token 5 in run.db differs from its checksum",
	} {
		dir := t.TempDir()
		fullRun(t, dir)
		if query == "" {
			if got := found(t, dir); got != "" {
				t.Errorf("undamaged: %s", got)
			}
			continue
		}
		change(t, dir, query)
		if got := found(t, dir); !strings.Contains(got, want) {
			t.Errorf("%s: found %q", query, got)
		}
		l := open(t, dir) // a start must not accept what is missing
		if _, err := l.QuickCheck(t.Context()); !errors.Is(err, ErrDamaged) && !strings.Contains(query, "pieces") {
			t.Errorf("%s: a start says %v", query, err)
		}
		if begun, err := l.Begun(t.Context()); !begun || err != nil {
			t.Errorf("%s: begun is %t, %v", query, begun, err)
		}
		if err := errors.Join(l.Event(t.Context(), 1, "restart", "again"), l.Close()); err != nil {
			t.Fatal(err)
		}
		if got := found(t, dir); !strings.Contains(got, want) {
			t.Errorf("%s, after a start: found %q", query, got)
		}
	}
}

func TestRowsOfAnEarlierVersionAreCounted(t *testing.T) {
	dir := t.TempDir()
	fullRun(t, dir)
	change(t, dir, `DELETE FROM meta WHERE key = 'rows'; PRAGMA application_id = 0;
		ALTER TABLE pieces DROP COLUMN checksum; DELETE FROM events WHERE id = 1`)
	if got := found(t, dir); got != "" {
		t.Errorf("a run without the record: %s", got)
	}
	l := open(t, dir)
	pieces, err := l.Pieces(t.Context(), nil)
	if err := errors.Join(err, l.Close()); err != nil || len(pieces) != 2 {
		t.Fatalf("%v, %v", pieces, err)
	}
	if got := found(t, dir); got != "" {
		t.Errorf("after a start: %s", got)
	}
	change(t, dir, "DELETE FROM events")
	if got := found(t, dir); got != "table events: 1 of 1 rows are missing" {
		t.Errorf("found %q", got)
	}
}

func TestReturnAndRetentionCountTheRows(t *testing.T) {
	dir := t.TempDir()
	fullRun(t, dir)
	change(t, dir, "DELETE FROM pins; UPDATE pieces SET text = 'HACKED' WHERE id = 5")
	if _, err := Return(t.Context(), dir, 1, nil); err != nil {
		t.Fatal(err)
	}
	if got := found(t, dir); got != "" {
		t.Errorf("after the return: %s", got)
	}
	l := open(t, dir)
	pieces, err := l.Pieces(t.Context(), nil)
	if err != nil || len(pieces) != 1 || pieces[6] != "six" {
		t.Errorf("%v, %v", pieces, err)
	}
	err = errors.Join(
		l.AddEpisode(t.Context(), Episode{Step: 1, Kind: "eval", Trajectory: json.RawMessage(`{}`)}),
		l.Slim(t.Context(), 1, 1, func(e Episode) (Episode, error) { return e, nil }), l.Close())
	if err != nil {
		t.Fatal(err)
	}
	if got := found(t, dir); got != "" {
		t.Errorf("after the episodes were slimmed: %s", got)
	}
}

// A fork that fails or is killed leaves nothing, and the copied files are on disk before
// the run appears.
func TestAForkIsWholeOrNothing(t *testing.T) {
	runs := t.TempDir()
	from, to := filepath.Join(runs, "a"), filepath.Join(runs, "b")
	l := open(t, from)
	files := writeVersion(t, from, 1)
	err := errors.Join(l.SavePlan(t.Context(), 1, json.RawMessage(`{}`)), l.Commit(t.Context(), Step{Step: 1, Version: 1,
		Metrics: json.RawMessage(`{}`)}, &Version{Version: 1, Step: 1, Files: files}, nil), l.Close())
	if err != nil {
		t.Fatal(err)
	}
	names := func() string {
		entries, err := os.ReadDir(runs)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return strings.Join(out, " ")
	}
	if _, err := Fork(t.Context(), Forking{From: from, Step: 99, To: to}); err == nil || names() != "a" {
		t.Errorf("a step that does not exist: %v, left %s", err, names())
	}
	killed := filepath.Join(runs, ".c"+forkSuffix)
	if err := makeFolders(killed); err != nil {
		t.Fatal(err)
	}
	lock, err := lockFile(filepath.Join(killed, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	open(t, from).Close()
	if names() != ".c.fork a" {
		t.Errorf("while a fork goes on: %s", names())
	}
	lock.Close()
	open(t, from).Close()
	if names() != "a" {
		t.Errorf("after a fork was killed: %s", names())
	}
	synced := map[string]bool{}
	syncFile = func(f *os.File) error {
		if _, err := os.Stat(to); err == nil {
			t.Errorf("%s was flushed after the run appeared", f.Name())
		}
		synced[filepath.Base(filepath.Dir(f.Name()))+"/"+filepath.Base(f.Name())] = true
		return f.Sync()
	}
	defer func() { syncFile = (*os.File).Sync }()
	if _, err := Fork(t.Context(), Forking{From: from, Step: -1, To: to}); err != nil || names() != "a b" {
		t.Fatalf("%v, left %s", err, names())
	}
	for _, name := range []string{"v000001/adapter_model.safetensors", "000001/adapter_model.safetensors"} {
		if !synced[name] {
			t.Errorf("%s was not flushed: %v", name, synced)
		}
	}
	if got := found(t, to); got != "" {
		t.Errorf("the fork: %s", got)
	}
}
