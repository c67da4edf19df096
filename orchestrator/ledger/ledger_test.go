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

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator/manifest"
)

func open(t *testing.T, dir string) *Ledger {
	t.Helper()
	l, err := Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// writeVersion writes the adapter and the checkpoint of a version.
func writeVersion(t *testing.T, dir string, version int) map[string]string {
	t.Helper()
	for _, f := range folders(dir) {
		entry := f.entry(version)
		file := filepath.Join(entry, "adapter_model.safetensors")
		err := errors.Join(os.MkdirAll(entry, 0o755),
			os.WriteFile(file, fmt.Appendf(nil, "weights of version %d", version), 0o644),
			manifest.Write(entry, f.manifest, nil))
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := manifest.Read(adapters(dir).entry(version), manifest.Adapter)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"adapter_model.safetensors": m.Files["adapter_model.safetensors"].SHA256}
}

func TestEverythingSurvivesReopening(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	l := open(t, dir)
	episode := Episode{
		Step: 1, Group: 2, Episode: 3, Task: "house-1/variation-0", Mode: "off_policy", Version: 4,
		Stop: "terminated", EnvReturn: 1, Score: 100, Success: true,
		At: "2026-01-02T03:04:05Z", Trajectory: json.RawMessage(`{"turns":[{"action":"pull jade","reward":1}]}`),
		Tokens: []byte{1, 1, 3, 7, 8}, Logprobs: []byte{0, 0, 0, 63},
	}
	evaluated, failed := episode, episode
	evaluated.Kind, failed.Kind, failed.Tokens, failed.Logprobs = "eval", KindFailed, nil, nil
	estimates := []Estimate{{Group: 2, Episode: 3, Advantage: 0.5, Bonus: 0.25, Tokens: 2, Logprobs: []float32{-1, -0.5}},
		{Group: 2, Episode: 4}}
	files := writeVersion(t, dir, 1)
	for _, err := range []error{
		l.SaveConfig(ctx, "[run]\n"), l.SavePlan(ctx, 1, json.RawMessage(`{"step":1}`)), l.AddEpisode(ctx, episode),
		l.AddEpisode(ctx, evaluated), l.AddEpisode(ctx, evaluated), l.AddEpisode(ctx, failed), l.UpdateEpisode(ctx, episode),
		l.Commit(ctx, Step{Step: 1, Version: 1, Metrics: json.RawMessage(`{"rows":5}`), Estimates: estimates},
			&Version{Version: 1, Step: 1, Dir: "d", Files: files}, nil),
		l.SaveEvaluation(ctx, 1, "eval", 1, json.RawMessage(`{"score":50}`)), l.Event(ctx, 1, "restart", "why"),
		l.SavePrompt(ctx, "abc", "a text"), l.SavePrompt(ctx, "abc", "a text"), l.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l = open(t, dir)
	episodes, err := l.Episodes(ctx, 1)
	if diff := cmp.Diff([]Episode{episode}, episodes); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if text, err := l.Config(ctx); text != "[run]\n" || err != nil {
		t.Errorf("config %q, %v", text, err)
	}
	if plan, err := l.Plan(ctx, 1); string(plan) != `{"step":1}` || err != nil {
		t.Errorf("plan %s, %v", plan, err)
	}
	if text, err := l.Prompt(ctx, "abc"); text != "a text" || err != nil {
		t.Errorf("prompt %q, %v", text, err)
	}
	if _, err := l.Prompt(ctx, "abd"); err == nil {
		t.Error("a prompt that was never saved")
	}
	if last, err := l.Last(ctx); last.Step != 1 || last.Version != 1 || err != nil {
		t.Errorf("last %+v, %v", last, err)
	}
	if e, err := l.Evaluation(ctx, 1, "eval"); string(e) != `{"score":50}` || err != nil {
		t.Errorf("evaluation %s, %v", e, err)
	}
	for _, want := range []Episode{evaluated, failed} {
		got, err := l.Untrained(ctx, want.Kind, 1)
		if diff := cmp.Diff([]Episode{want}, got); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	got, err := l.Estimates(ctx, 1)
	if diff := cmp.Diff(estimates, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	l.Close()
	if r, err := Verify(ctx, dir); err != nil || r.Damaged() || r.Rows < 9 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAStepIsCommittedWholeOrNotAtAll(t *testing.T) {
	ctx := context.Background()
	l := open(t, t.TempDir())
	defer l.Close()
	writeVersion(t, l.Dir, 1)
	boom := errors.New("boom")
	err := l.Commit(ctx, Step{Step: 1, Metrics: json.RawMessage(`{}`)}, &Version{Version: 1}, func(tx *sql.Tx) error {
		const insert = "INSERT INTO events(step, at, kind, detail, checksum) VALUES(1, '', 'tip', '', '')"
		if _, err := tx.ExecContext(ctx, insert); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	for _, table := range []string{"steps", "versions", "events"} {
		var n int
		if err := l.DB().QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != 0 {
			t.Errorf("%s holds %d rows, %v", table, n, err)
		}
	}
}

func TestNothingIsRecordedTwice(t *testing.T) {
	ctx := context.Background()
	l := open(t, t.TempDir())
	defer l.Close()
	twice := func(what string, f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		if f() == nil {
			t.Errorf("%s was recorded twice", what)
		}
	}
	twice("an episode", func() error { return l.AddEpisode(ctx, Episode{Step: 1, Trajectory: json.RawMessage(`{}`)}) })
	twice("a plan", func() error { return l.SavePlan(ctx, 1, json.RawMessage(`{}`)) })
	twice("a step", func() error { return l.Commit(ctx, Step{Step: 1, Metrics: json.RawMessage(`{}`)}, nil, nil) })
}

func TestARunHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	if _, err := Open(context.Background(), dir); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("second owner: %v", err)
	}
	l.Close()
	open(t, dir).Close()
}

func TestForeignFilesAreRefused(t *testing.T) {
	f := func(name string, prepare func(path string), want string) {
		t.Helper()
		dir := t.TempDir()
		prepare(filepath.Join(dir, "run.db"))
		l, err := Open(context.Background(), dir)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "hint:") {
			t.Errorf("%s: got %v, want %q and a hint", name, err, want)
		}
	}
	f("not a database", func(path string) {
		os.WriteFile(path, []byte(strings.Repeat("not a database. ", 100)), 0o644)
	}, "not a database")
	f("a newer format", func(path string) {
		db, err := sql.Open("sqlite", "file:"+path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec("PRAGMA user_version = 99"); err != nil {
			t.Fatal(err)
		}
	}, "format is 99")
}

func TestDiscardAndPrune(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	for _, name := range []string{"adapters/v000001", "adapters/v000002", "adapters/v000003", "adapters/notes",
		"checkpoints/000002", "checkpoints/000003"} {
		if err := os.MkdirAll(filepath.Join(l.Dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	left := func() []string {
		all, err := filepath.Glob(filepath.Join(l.Dir, "*s", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			all[i], _ = filepath.Rel(l.Dir, all[i])
		}
		return all
	}
	for step := range int64(2) {
		if err := l.Commit(context.Background(), Step{Step: step + 1, Metrics: json.RawMessage(`{}`)}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.DiscardAfter(2); err != nil {
		t.Fatal(err)
	}
	want := []string{"adapters/notes", "adapters/v000001", "adapters/v000002", "checkpoints/000002"}
	if diff := cmp.Diff(want, left()); diff != "" {
		t.Error(diff)
	}
	if err := l.Prune(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"adapters/notes", "adapters/v000002", "checkpoints/000002"}, left()); diff != "" {
		t.Error(diff)
	}
}
