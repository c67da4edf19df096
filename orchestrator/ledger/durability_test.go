package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// The database is in the run's folder, whatever the characters of its path mean
// in a URI.
func TestThePathIsNotASyntax(t *testing.T) {
	root := t.TempDir()
	names := []string{"exp#1", "exp#2", "a?b", "a?mode=memory", "50%", "%41", "a b", "a&b=c", "a+b", "ä", "a\nb", ";", "'",
		":memory:", "file:x"}
	for _, name := range names {
		dir := filepath.Join(root, name)
		l := open(t, dir)
		if err := l.Event(context.Background(), 0, "name", name); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if info, err := os.Stat(filepath.Join(dir, "run.db")); err != nil || info.Size() == 0 {
			t.Errorf("%q: run.db: %v", name, err)
		}
	}
	for _, name := range names {
		l := open(t, filepath.Join(root, name))
		if got, err := l.LastEvent(context.Background(), "name"); got != name || err != nil {
			t.Errorf("%q has the events of %q (%v)", name, got, err)
		}
		l.Close()
		if r, err := Verify(context.Background(), filepath.Join(root, name)); err != nil || r.Damaged() {
			t.Errorf("%q: %+v, %v", name, r, err)
		}
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != len(names) {
		t.Errorf("%d entries for %d runs: %v (%v)", len(entries), len(names), entries, err)
	}
}

// A fork and a backup are in the folder and the file that are named, and a fork knows
// the run that it was made from.
func TestThePathOfACopyIsNotASyntax(t *testing.T) {
	t.Chdir(t.TempDir())
	const from = "file:a@b?mode=memory#1"
	l := open(t, from)
	l.Close()
	for i, to := range []string{"file:copy@2", "file:///copy?x=1", "a@12"} {
		if _, err := Fork(t.Context(), Forking{From: from, Step: -1, To: to}); err != nil {
			t.Errorf("%s: %v", to, err)
			continue
		}
		if got, err := ForkedFrom(t.Context(), to); got != from || err != nil {
			t.Errorf("%s was forked from %q, %v; want %q", to, got, err, from)
		}
		file := fmt.Sprintf("file:%d?mode=memory.tar", i)
		if _, err := Backup(t.Context(), from, file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// Nothing is begun over the files of an earlier run.
func TestNoStartOverBesideFilesOfARun(t *testing.T) {
	f := func(what string, change func(dir string)) {
		t.Helper()
		dir := t.TempDir()
		l := open(t, dir)
		l.Close()
		change(dir)
		for _, damage := range []func(string) error{os.Remove, func(p string) error { return os.WriteFile(p, nil, 0o600) }} {
			if err := damage(filepath.Join(dir, "run.db")); err != nil {
				t.Fatal(err)
			}
			l, err := Open(context.Background(), dir)
			if err == nil {
				l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "of an earlier run") || !strings.Contains(err.Error(), "hint:") {
				t.Errorf("%s: got %v", what, err)
			}
		}
	}
	f("adapters", func(dir string) { writeVersion(t, dir, 1); os.RemoveAll(checkpoints(dir).entry(1)) })
	f("checkpoints", func(dir string) { writeVersion(t, dir, 1); os.RemoveAll(adapters(dir).entry(1)) })
	f("configuration", func(dir string) { os.WriteFile(filepath.Join(dir, "config.toml"), []byte("[run]\n"), 0o600) })
	f("write-ahead log", func(dir string) { os.WriteFile(filepath.Join(dir, "run.db-wal"), []byte("x"), 0o600) })
}

// A database that ends before the files do is not continued: the step after it
// would replace them.
func TestFilesOfUnknownStepsStay(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	writeVersion(t, l.Dir, 2)
	if err := l.DiscardAfter(0); err == nil || !strings.Contains(err.Error(), "run.db ends at step 0") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(checkpoints(l.Dir).entry(2)); err != nil {
		t.Error(err)
	}
}

// A backup that begins again has nothing of the attempt before: the run may have
// removed a version while it was copied.
func TestABackupLeavesNoVersionOfAnEarlierAttempt(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	to := t.TempDir()
	if err := makeDir(checkpoints(to).entry(1), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := snapshot(context.Background(), l.Dir, to); err != nil {
		t.Fatal(err)
	}
	r, err := Verify(context.Background(), to)
	if err != nil || len(r.Problems) > 0 {
		t.Errorf("%v, %v", r, err)
	}
}

// If no step can be read, the report does not say that nothing is lost.
func TestAnUnreadableDatabaseIsNotStepZero(t *testing.T) {
	f := func(what string, damage func(path string) error) {
		t.Helper()
		dir := t.TempDir()
		open(t, dir).Close()
		if r, err := Verify(context.Background(), dir); err != nil || r.Unreadable {
			t.Fatalf("before: %v, %v", r, err)
		}
		if err := damage(filepath.Join(dir, databaseName)); err != nil {
			t.Fatal(err)
		}
		if r, err := Verify(context.Background(), dir); err != nil || !r.Unreadable || !r.Damaged() {
			t.Errorf("%s: %v, %v", what, r, err)
		}
	}
	f("missing", os.Remove)
	f("empty", func(p string) error { return os.WriteFile(p, nil, 0o600) })
	f("no database", func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("x", 8192)), 0o600) })
}

// While a reader keeps the commits out of the database file, older checkpoints
// stay.
func TestPruneWaitsForTheCheckpointOfTheLog(t *testing.T) {
	ctx := context.Background()
	l := open(t, t.TempDir())
	defer l.Close()
	if _, err := l.DB().Exec("PRAGMA busy_timeout = 1"); err != nil {
		t.Fatal(err)
	}
	for v := 1; v <= 3; v++ {
		writeVersion(t, l.Dir, v)
	}
	reader, err := sql.Open("sqlite", dataSource(filepath.Join(l.Dir, "run.db"), reading))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	reading, err := reader.Begin()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := reading.QueryRow("SELECT count(*) FROM steps").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if err := l.Event(ctx, 0, "a", "write"); err != nil {
		t.Fatal(err)
	}
	left := func() int {
		all, err := versions(checkpoints(l.Dir).path, "")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if err := l.Prune(ctx, 1); err != nil || left() != 3 {
		t.Errorf("while it is read: %v, %d checkpoints", err, left())
	}
	if err := reading.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := l.Prune(ctx, 1); err != nil || left() != 1 {
		t.Errorf("afterwards: %v, %d checkpoints", err, left())
	}
}

// A database of the first format gets checksums, and everything in it is kept.
func TestTheFirstFormatIsBroughtUpToDate(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	text, err := os.ReadFile("testdata/format1.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", dataSource(filepath.Join(dir, "run.db"), ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(string(text)); err != nil {
		t.Fatal(err)
	}
	db.Close()
	l := open(t, dir)
	if text, err := l.Config(ctx); text != "[run]" || err != nil {
		t.Errorf("config %q, %v", text, err)
	}
	if e, err := l.Episodes(ctx, 1); len(e) != 2 || e[1].Score != 0.5 || err != nil {
		t.Errorf("episodes %+v, %v", e, err)
	}
	if _, all, err := l.Imports(ctx); all || err != nil {
		t.Errorf("imports are known: %t, %v", all, err)
	}
	if err := l.AddEpisode(ctx, Episode{Step: 2, Trajectory: json.RawMessage(`{}`)}); err != nil {
		t.Error(err)
	}
	l.Close()
	if r, err := Verify(ctx, dir); err != nil || r.Steps != 1 || len(r.Problems) != 1 { // config.toml was never written
		t.Errorf("%+v, %v", r, err)
	}
}

// Frames of the write-ahead log that SQLite would ignore are reported.
func TestADamagedLogIsReported(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	for range 5 {
		if err := l.Event(context.Background(), 0, "a", strings.Repeat("x", 3000)); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, "run.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	path := filepath.Join(t.TempDir(), "wal")
	lost := func(text []byte) bool {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return damagedWAL(path) != ""
	}
	if lost(log) || lost(log[:len(log)-1000]) || lost(log[:walHeader]) || lost(nil) {
		t.Error("a log that is whole, or that ends early, is reported")
	}
	// A fault in the last frame, or in the checksum of the one before, looks like
	// a frame that a killed process has not finished.
	const frame = frameHeader + 4096
	for at := 0; at < len(log)-2*frame; at += 777 {
		bad := append([]byte(nil), log...)
		bad[at] ^= 4
		if !lost(bad) {
			t.Errorf("a flip at %d is not reported", at)
		}
	}
	for at := len(log) - frame; at < len(log); at += 500 {
		torn := append([]byte(nil), log...)
		clear(torn[at:])
		if lost(torn) {
			t.Errorf("a last frame that ends at %d is reported", at)
		}
	}
}

// If a process is killed in a transaction, the rest of that transaction in the
// log is no damage, even after later transactions have overwritten a part of it.
func TestAnUnfinishedTransactionIsNoDamage(t *testing.T) {
	ctx := context.Background()
	l := open(t, t.TempDir())
	defer l.Close()
	event := func(l *Ledger) {
		t.Helper()
		if err := l.Event(ctx, 0, "a", "b"); err != nil {
			t.Fatal(err)
		}
	}
	event(l)
	if _, err := l.db.Exec("PRAGMA cache_size = 1"); err != nil { // pages leave RAM before the commit
		t.Fatal(err)
	}
	tx, err := l.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for range 50 {
		if err := insert(ctx, tx, "events", "", 0, "c", "d", strings.Repeat("x", 3000)); err != nil {
			t.Fatal(err)
		}
	}
	// asKilled copies a run as a SIGKILL would leave it.
	asKilled := func(l *Ledger, events int) *Ledger {
		t.Helper()
		dir := t.TempDir()
		for _, name := range []string{"run.db", "run.db-wal"} {
			text, err := os.ReadFile(filepath.Join(l.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		log, err := os.ReadFile(filepath.Join(dir, "run.db-wal"))
		if err != nil || len(log) < 20*4096 {
			t.Fatalf("the log has %d bytes, %v", len(log), err)
		}
		next := open(t, dir)
		t.Cleanup(func() { next.Close() })
		var n int
		if err := next.db.QueryRow("SELECT count(*) FROM events").Scan(&n); err != nil || n != events {
			t.Errorf("%d events, want %d; %v", n, events, err)
		}
		if next.Lost != "" {
			t.Errorf("after %d events: %s", events, next.Lost)
		}
		return next
	}
	second := asKilled(l, 1)
	event(second)
	asKilled(second, 2)
}

// The warm-started model of a run is verified with the rest, and a damaged one is
// not copied to a backup.
func TestADamagedWarmStartIsFound(t *testing.T) {
	ctx := context.Background()
	l := open(t, t.TempDir())
	base := filepath.Join(l.Dir, "base")
	weights := filepath.Join(base, "model.safetensors")
	err := errors.Join(l.SaveConfig(ctx, "[run]\n"), l.Close(), os.Mkdir(base, 0o755),
		os.WriteFile(weights, []byte("weights"), 0o644), manifest.Write(base, manifest.WarmStart, nil))
	if err != nil {
		t.Fatal(err)
	}
	before, err := Verify(ctx, l.Dir)
	if err != nil || before.BaseDamaged || before.Files != 1 {
		t.Errorf("before: %+v, %v", before, err)
	}
	if _, err := Backup(ctx, l.Dir, filepath.Join(t.TempDir(), "good.tar")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(weights, []byte("weightz"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(ctx, l.Dir); err != nil || !r.BaseDamaged || !r.Damaged() {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := Backup(ctx, l.Dir, filepath.Join(t.TempDir(), "bad.tar")); !errors.Is(err, ErrDamaged) {
		t.Errorf("back up: got %v", err)
	}
}

// A database of the second format keeps its episodes, whose numbers are in their
// JSON.
func TestTheSecondFormatIsBroughtUpToDate(t *testing.T) {
	f := func(spoil string, damaged bool) {
		t.Helper()
		ctx, dir := context.Background(), t.TempDir()
		writeFormat2(t, dir, spoil)
		if _, err := Verify(ctx, dir); err == nil || !strings.Contains(err.Error(), "hint: empo2 run") {
			t.Errorf("before: %v", err)
		}
		l, err := Open(ctx, dir)
		if damaged {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("a damaged row: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		e, err := l.Episodes(ctx, 1)
		if err != nil || len(e) != 1 || string(e[0].Trajectory) != `{"turns":[{"ids":[1]}]}` || e[0].Tokens != nil {
			t.Errorf("%+v, %v", e, err)
		}
		if err := l.AddEpisode(ctx, Episode{Step: 2, Trajectory: json.RawMessage(`{}`), Tokens: []byte{1}}); err != nil {
			t.Error(err)
		}
		l.Close()
		if r, err := Verify(ctx, dir); err != nil || r.Steps != 1 || r.Damaged() {
			t.Errorf("%+v, %v", r, err)
		}
	}
	f("", false)
	f("UPDATE episodes SET score = 3", true)
	f("UPDATE steps SET metrics = '{}'", true)
}

func writeFormat2(t *testing.T, dir, spoil string) {
	t.Helper()
	text, err := os.ReadFile("testdata/format2.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", dataSource(filepath.Join(dir, "run.db"), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	trajectory := `{"turns":[{"ids":[1]}]}`
	values := []any{1, 0, 0, "task", "on_policy", 0, "terminated", 1.0, 100.0, true, trajectory}
	content := earlierChecksum(earlierChecksum(1, "{}"), earlierChecksum(values...))
	for _, s := range []struct {
		query string
		args  []any
	}{
		{string(text), nil}, {"PRAGMA user_version = 2", nil},
		{"INSERT INTO plans VALUES(1, '{}', ?)", []any{earlierChecksum(1, "{}")}},
		{"INSERT INTO episodes(step, grp, episode, task, mode, version, stop, env_return, score, success, trajectory, " +
			"checksum) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", append(values, earlierChecksum(values...))},
		{"INSERT INTO steps VALUES(1, 0, 'at', '{\"rows\":1}', ?, ?)",
			[]any{content, earlierChecksum(1, 0, "at", `{"rows":1}`, content)}},
		{spoil, nil},
	} {
		if _, err := db.Exec(s.query, s.args...); err != nil {
			t.Fatalf("%s: %v", s.query, err)
		}
	}
}

// A run that was killed while its database was created has a journal that SQLite
// must roll back. The check before a start leaves that to Open; commands that only
// read say so.
func TestAJournalOfTheCreationIsRolledBack(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	path := filepath.Join(dir, "run.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(ctx, "CREATE TABLE gone(x); DROP TABLE gone")
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	journal := make([]byte, 512)
	copy(journal, "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7") // of the format of SQLite's files, section 3
	if err := os.WriteFile(path+"-journal", journal, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReader(ctx, dir); err == nil || !strings.Contains(err.Error(), "killed while its database") {
		t.Errorf("a reader: %v", err)
	}
	if _, err := Verify(ctx, dir); err == nil || !strings.Contains(err.Error(), "killed while its database") {
		t.Errorf("a check: %v", err)
	}
	if err := CheckFolder(ctx, dir); err != nil {
		t.Errorf("before a start: %v", err)
	}
	l, err := Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := CheckFolder(ctx, dir); err != nil {
		t.Errorf("after a start: %v", err)
	}
}
