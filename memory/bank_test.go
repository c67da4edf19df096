package memory_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/memory/memorytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openBank(t testing.TB, db *sql.DB, change ...func(*memory.Config)) *memory.Bank {
	t.Helper()
	c := memory.DefaultConfig(embed.NGram{})
	for _, f := range change {
		f(&c)
	}
	b, err := memory.OpenBank(t.Context(), db, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func learn(t testing.TB, b memory.Strategy, experiences ...memory.Experience) {
	t.Helper()
	for _, e := range experiences {
		if err := b.Learn(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func commit(t testing.TB, db *sql.DB, b memory.Strategy) {
	t.Helper()
	if err := memorytest.Commit(t.Context(), db, b, true); err != nil {
		t.Fatal(err)
	}
}

func recall(t testing.TB, b memory.Strategy, scope, text string) memory.Recollection {
	t.Helper()
	r, err := b.Recall(t.Context(), memory.State{Scope: scope, Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// otherModel has the name of another embedder, and other vectors.
type otherModel struct {
	embed.NGram
	change func(v []float32)
}

func (o otherModel) Embed(ctx context.Context, texts ...string) ([][]float32, error) {
	vectors, err := o.NGram.Embed(ctx, texts...)
	for _, v := range vectors {
		o.change(v)
	}
	return vectors, err
}

// A server that has another model under the same name is found when a bank is opened.
// One that only rounds differently is not refused.
func TestAnotherModelUnderTheNameOfTheEmbedder(t *testing.T) {
	db := memorytest.DB(t)
	first := openBank(t, db)
	if err := first.CheckEmbedder(t.Context()); err != nil {
		t.Error("an empty bank:", err)
	}
	learn(t, first, episode(1, "tip", 1, "a red door", "a blue door"))
	commit(t, db, first)
	f := func(refused bool, change func(v []float32)) {
		t.Helper()
		b := openBank(t, db, func(c *memory.Config) { c.Embedder = otherModel{change: change} })
		err := b.CheckEmbedder(t.Context())
		if (err != nil) != refused || refused && !strings.Contains(err.Error(), "its model has changed\n  hint: ") {
			t.Error(err)
		}
	}
	f(false, func([]float32) {})
	f(false, func(v []float32) {
		for i := range v {
			v[i] *= 1 + 1e-4*float32(i%2)
		}
	})
	f(true, func(v []float32) { slices.Reverse(v) })
	f(true, func(v []float32) {
		for i := range v {
			v[i] = -v[i]
		}
	})
}

func episode(n int, tip string, score float64, states ...string) memory.Experience {
	return memory.Experience{Scope: "s", States: states,
		Tip: memory.Tip{Text: tip, Score: score, Step: int64(n / 100), Episode: n % 100}}
}

func texts(r memory.Recollection) (texts []string) {
	for _, tip := range r.Tips {
		texts = append(texts, tip.Text)
	}
	return texts
}

func TestConformance(t *testing.T) {
	t.Run("bank", func(t *testing.T) {
		memorytest.Run(t, func(t *testing.T, db *sql.DB) memory.Strategy { return openBank(t, db) })
	})
	t.Run("bank that counts states", func(t *testing.T) {
		memorytest.Run(t, func(t *testing.T, db *sql.DB) memory.Strategy {
			return openBank(t, db, func(c *memory.Config) { c.Novelty, c.MaxScopes = memory.NoveltyStates, 1 })
		})
	})
	t.Run("reference", func(t *testing.T) {
		// The reference keeps everything in RAM. To survive a second open, it is
		// kept together with its database.
		opened := make(map[*sql.DB]memory.Strategy)
		memorytest.Run(t, func(t *testing.T, db *sql.DB) memory.Strategy {
			if opened[db] == nil {
				opened[db] = memorytest.NewReference(memory.DefaultConfig(embed.NGram{}))
			}
			return opened[db]
		})
	})
}

func TestGeneralProperties(t *testing.T) {
	memorytest.RunGeneral(t, memorytest.Subject{
		Open: func(t *testing.T, db *sql.DB, capacity int) memory.Strategy {
			return openBank(t, db, func(c *memory.Config) { c.Capacity = capacity })
		},
		Size: func(t *testing.T, db *sql.DB, scope string) (n int) {
			t.Helper()
			err := db.QueryRow("SELECT count(*) FROM memory_entries WHERE scope = ?", scope).Scan(&n)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
	})
}

// With ε each place goes to a random tip with this probability; the seed decides.
func TestRecallExplores(t *testing.T) {
	db := memorytest.DB(t)
	learn(t, openBank(t, db), episode(0, "x", 0, "elsewhere"))
	b := openBank(t, db, func(c *memory.Config) { c.K, c.Explore = 2, 0.3 })
	for n := range 10 {
		learn(t, b, episode(n, fmt.Sprint("tip ", n), float64(-n), "a hall"))
	}
	commit(t, db, b)
	const seeds = 4000
	best := 0
	for seed := range uint64(seeds) {
		ask := func() []string {
			r, err := b.Recall(t.Context(), memory.State{Scope: "s", Text: "a hall", Seed: seed})
			if err != nil {
				t.Fatal(err)
			}
			return texts(r)
		}
		got := ask()
		if len(got) != 2 || got[0] == got[1] || !slices.Equal(got, ask()) {
			t.Fatalf("seed %d: %v, then %v", seed, got, ask())
		}
		if got[0] == "tip 0" {
			best++
		}
	}
	// 1 − ε + ε/10
	if share := float64(best) / seeds; share < 0.71 || share > 0.75 {
		t.Errorf("the best tip is first in %.3f of the recalls, want 0.73", share)
	}
}

func TestTheBestScoresAreRecalledFirst(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db, func(c *memory.Config) { c.K = 3 })
	near := "Levers: jade, amber, bone. Door 1 of 4 is oak."
	learn(t, b,
		episode(0, "old and good", 5, near),
		episode(1, "bad", -1, near),
		episode(2, "new and good", 5, near),
		episode(3, "good but less alike", 5, "Levers: jade, amber, bone. Door 2 of 4 is oak."),
		episode(4, "best", 9, near),
		episode(5, "best elsewhere", 100, "Levers: ruby, tin, wax. Door 3 of 4 is iron."))
	commit(t, db, b)
	r := recall(t, b, "s", near)
	if diff := cmp.Diff([]string{"best", "new and good", "old and good"}, texts(r)); diff != "" {
		t.Errorf("tips (-want +got):\n%s", diff)
	}
	if r.Similar != 5 {
		t.Errorf("similar = %d, want all 5 entries above the threshold", r.Similar)
	}
}

func TestARepeatedTipReplacesTheOlderOne(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db)
	learn(t, b, episode(0, "go north", 1, "a hall", "some kitchen"), episode(1, "stay", 2, "a hall"))
	commit(t, db, b)
	learn(t, b, episode(100, " go  north\n", 3, "a hall"))
	commit(t, db, b)
	r := recall(t, b, "s", "a hall")
	if diff := cmp.Diff([]string{"go north", "stay"}, texts(r)); diff != "" {
		t.Errorf("tips (-want +got):\n%s", diff)
	}
	if got := r.Tips[0]; got.Score != 3 || got.Step != 1 || r.Similar != 2 {
		t.Errorf("tip %+v, similar %d; want the latest score and provenance, and one entry per tip", got, r.Similar)
	}
	if got := recall(t, b, "s", "some kitchen").Tips[0]; got.Score != 1 || got.Step != 0 {
		t.Errorf("at a state that the later episode did not visit: %+v", got)
	}
}

// The limit of a tip is an option of the prompt template, so the bank has none.
func TestLongTipsAreNotCut(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db)
	long := strings.Repeat("north ", 1000) + "or south"
	learn(t, b, episode(0, long, 1, "a hall"))
	commit(t, db, b)
	if diff := cmp.Diff([]string{long}, texts(recall(t, b, "s", "a hall"))); diff != "" {
		t.Errorf("tips (-want +got):\n%s", diff)
	}
}

func TestTheOldestEntriesAreDeleted(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db, func(c *memory.Config) { c.Capacity = 4 })
	for n := range 10 {
		learn(t, b, episode(n, fmt.Sprint("tip ", n), float64(-n), "a hall", "some kitchen"))
		commit(t, db, b)
	}
	if diff := cmp.Diff([]string{"tip 8", "tip 9"}, texts(recall(t, b, "s", "a hall"))); diff != "" {
		t.Errorf("tips (-want +got):\n%s", diff)
	}
	stats, err := b.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(memory.Stats{Scopes: 1, Tips: 2, Entries: 4, States: 2}, stats); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestNoveltyCounts(t *testing.T) {
	visits := []memory.Experience{
		episode(0, "go north", 1, "a hall", "a hall", "some kitchen"),
		episode(1, "", 1, "a hall"),
		episode(2, "stay", 1, "a hall"),
	}
	f := func(want int, change func(*memory.Config)) {
		t.Helper()
		db := memorytest.DB(t)
		b := openBank(t, db, change)
		learn(t, b, visits...)
		commit(t, db, b)
		if got := recall(t, b, "s", "a hall").Similar; got != want {
			t.Errorf("similar = %d, want %d", got, want)
		}
	}
	f(2, func(c *memory.Config) {})
	f(2, func(c *memory.Config) { c.K = 1 })
	f(1, func(c *memory.Config) { c.NoveltyCap = 1 })
	f(4, func(c *memory.Config) { c.Novelty = memory.NoveltyStates })
	f(3, func(c *memory.Config) { c.Novelty, c.NoveltyCap = memory.NoveltyStates, 3 })
	f(1, func(c *memory.Config) { c.Novelty = memory.NoveltyDistinct })
}

func TestCapacityLimitsVisitedStates(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db, func(c *memory.Config) { c.Capacity, c.Novelty = 3, memory.NoveltyStates })
	for _, room := range []string{"hall", "kitchen", "cellar", "hall", "attic", "garden"} {
		learn(t, b, episode(0, "", 0, room))
		commit(t, db, b)
	}
	for room, want := range map[string]int{"kitchen": 0, "cellar": 0, "hall": 2, "attic": 1, "garden": 1} {
		if got := recall(t, b, "s", room).Similar; got != want {
			t.Errorf("%s: similar = %d, want %d", room, got, want)
		}
	}
}

func TestScopesOutsideRAMAreReadAgain(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db, func(c *memory.Config) { c.MaxScopes = 2 })
	const scopes = 5
	for n := range scopes {
		e := episode(0, fmt.Sprint("tip ", n), 1, "a hall")
		e.Scope = fmt.Sprint("scope ", n)
		learn(t, b, e)
	}
	commit(t, db, b)
	for n := range 2 * scopes {
		scope := fmt.Sprint("scope ", n%scopes)
		want := []string{fmt.Sprint("tip ", n%scopes)}
		if diff := cmp.Diff(want, texts(recall(t, b, scope, "a hall"))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", scope, diff)
		}
	}
}

func TestABankSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.db")
	db := memorytest.OpenDB(t, path)
	b := openBank(t, db)
	learn(t, b, episode(0, "go north", 1, "a hall", "some kitchen"))
	commit(t, db, b)
	want := recall(t, b, "s", "a hall")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again := openBank(t, memorytest.OpenDB(t, path))
	if diff := cmp.Diff(want, recall(t, again, "s", "a hall")); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
}

// named is an embedder with another name.
type named struct {
	memory.Embedder
	name string
}

func (n named) Name() string { return n.name }

func TestABankRefusesAnotherEmbedder(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db)
	learn(t, b, episode(0, "go north", 1, "a hall"))
	commit(t, db, b)
	_, err := memory.OpenBank(t.Context(), db, memory.DefaultConfig(named{embed.NGram{}, "minilm-384"}))
	if err == nil {
		t.Fatal("a bank of another embedder was opened")
	}
	for _, want := range []string{`"ngram-384"`, `"minilm-384"`, "empo2 memory export", "empo2 memory import"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %s", err, want)
		}
	}
}

func TestOneConnectionIsEnough(t *testing.T) {
	db := memorytest.DB(t)
	db.SetMaxOpenConns(1)
	b := openBank(t, db)
	learn(t, b, episode(0, "go north", 1, "a hall"))
	commit(t, db, b)
	if got := texts(recall(t, b, "s", "a hall")); len(got) != 1 {
		t.Errorf("tips %v, want one", got)
	}
}

func TestACommitMustFinishBeforeTheNext(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	done, err := b.Commit(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Commit(t.Context(), tx); err == nil {
		t.Error("a second commit began before the first was finished")
	}
	done(false)
	if _, err := b.Commit(t.Context(), tx); err != nil {
		t.Errorf("after done: %v", err)
	}
}
