package orchestrator

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// finishedRun returns the folder of a run of three steps with a memory.
func finishedRun(t *testing.T) string {
	t.Helper()
	w := newWorld(t, small(func(c *config.Config) {
		c.Algorithm.GroupSize, c.Eval.Every, c.Eval.FinalEpisodes = 4, 0, 2
	}))
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	return w.dir
}

// replayedBank has a bank of tips replayed.
func replayedBank(c memory.Config) Replayed {
	return Replayed{Open: func(ctx context.Context, db *sql.DB, e memory.Embedder) (memory.Strategy, error) {
		c.Embedder = e
		return memory.OpenBank(ctx, db, c)
	}}
}

// check verifies a run with the memory's default settings.
func check(t *testing.T, dir string) *ledger.Report {
	t.Helper()
	m := memory.DefaultConfig(embed.NGram{})
	m.K = demo().Memory.K
	r, err := Check(context.Background(), dir, replayedBank(m))
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return r
}

// content is everything that the tables of a run say.
func content(dir string) (string, error) {
	var out strings.Builder
	err := ledger.View(context.Background(), dir, func(l *ledger.Ledger) error {
		for _, table := range []string{"meta", "plans", "episodes", "steps", "versions", "evaluations", "events", "pins",
			"imports", "memory_meta", "memory_states", "memory_tips", "memory_entries", "untrained", "estimates"} {
			rows, err := l.DB().Query("SELECT * FROM " + table)
			if err != nil {
				return err
			}
			defer rows.Close()
			columns, err := rows.Columns()
			if err != nil {
				return err
			}
			for rows.Next() {
				values, into := make([]any, len(columns)), make([]any, len(columns))
				for i := range values {
					into[i] = &values[i]
				}
				if err := rows.Scan(into...); err != nil {
					return err
				}
				fmt.Fprintln(&out, table, values)
			}
			if err := rows.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	return out.String(), err
}

// A damage changes the files of a run.
type damage struct {
	name string
	do   func(dir string) error
}

// edit changes the bytes of a file.
func edit(name string, change func([]byte) []byte) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, change(text), 0o600)
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at%len(b)] ^= 1 << (at % 8)
		return b
	}
}

func cut(percent int) func([]byte) []byte {
	return func(b []byte) []byte { return b[:len(b)*percent/100] }
}

func overwrite(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		at := at % max(1, len(b)-4096)
		copy(b[at:min(len(b), at+4096)], bytes.Repeat([]byte{0xa5}, 4096))
		return b
	}
}

func remove(name string) func(string) error {
	return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
}

// damages lists the damage to try, the same in every run of the test.
func damages(t *testing.T, dir string) []damage {
	random := rand.New(rand.NewPCG(1, 2))
	var out []damage
	add := func(name string, do func(string) error) { out = append(out, damage{name, do}) }
	for range 60 {
		at := random.IntN(1 << 30)
		add(fmt.Sprintf("flip run.db at %d", at), edit("run.db", flip(at)))
	}
	for range 12 {
		at := random.IntN(1 << 30)
		add(fmt.Sprintf("overwrite 4 KB of run.db at %d", at), edit("run.db", overwrite(at)))
	}
	for _, percent := range []int{0, 1, 30, 50, 90, 99} {
		add(fmt.Sprintf("cut run.db to %d %%", percent), edit("run.db", cut(percent)))
	}
	add("remove run.db", remove("run.db"))
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(dir, path)
		if err = errors.Join(err, relErr); err != nil || e.IsDir() || filepath.Dir(rel) == "." {
			return err
		}
		add("flip "+rel, edit(rel, flip(random.IntN(1<<30))))
		add("cut "+rel, edit(rel, cut(50)))
		add("empty "+rel, edit(rel, cut(0)))
		add("remove "+rel, remove(rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"adapters", "checkpoints", "checkpoints/000003", "adapters/v000003"} {
		add("remove "+folder, remove(folder))
	}
	return out
}

// Whatever is damaged in a run's folder, the check finds it, or it is harmless:
// the content is what it was and every file that is left is right.
func TestDamageIsFoundOrHarmless(t *testing.T) {
	dir := finishedRun(t)
	want, err := content(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r := check(t, dir); len(r.Problems) > 0 || r.Steps != 3 || r.Newest() != 3 {
		t.Fatalf("before any damage: %+v", r)
	}
	found, harmless := 0, 0
	for _, d := range damages(t, dir) {
		copied := filepath.Join(t.TempDir(), "run")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := d.do(copied); err != nil {
			t.Fatal(err)
		}
		r := check(t, copied)
		if r.Damaged() {
			found++
			continue
		}
		harmless++
		if got, err := content(copied); err != nil || got != want {
			t.Errorf("%s: not found, but the content has changed (%v)", d.name, err)
		}
		if strings.Contains(d.name, "checkpoints/000003") {
			t.Errorf("%s: not found", d.name)
		}
	}
	t.Logf("%d cases: %d found, %d harmless", found+harmless, found, harmless)
}

// A start does not go on with a database that was overwritten, wherever that was.
func TestAStartFindsAnOverwrittenDatabase(t *testing.T) {
	dir, random := finishedRun(t), rand.New(rand.NewPCG(3, 4))
	ctx, found := context.Background(), 0
	for range 20 {
		at := random.IntN(1 << 30)
		copied := filepath.Join(t.TempDir(), "run")
		err := errors.Join(os.CopyFS(copied, os.DirFS(dir)), edit("run.db", overwrite(at))(copied))
		if err != nil {
			t.Fatal(err)
		}
		damaged := check(t, copied).Damaged()
		l, err := ledger.Open(ctx, copied)
		if err == nil {
			_, err = l.QuickCheck(ctx)
			l.Close()
		}
		if damaged != errors.Is(err, ledger.ErrDamaged) {
			t.Errorf("4 KB at %d: damaged is %t, the start says %v", at, damaged, err)
		}
		if damaged {
			found++
		}
	}
	if found != 20 {
		t.Errorf("found %d of 20", found)
	}
}
