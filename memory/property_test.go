package memory_test

import (
	"context"
	"database/sql"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/memory/memorytest"
)

// coarse returns vectors with four components of ±1/2 in six dimensions. Their
// cosines are exact multiples of 1/4, so many are equal and some equal the
// threshold.
type coarse struct{}

func (coarse) Name() string { return "coarse-6" }

func (coarse) Embed(_ context.Context, texts ...string) ([][]float32, error) {
	vectors := make([][]float32, len(texts))
	for i, text := range texts {
		h := fnv.New64a()
		h.Write([]byte(text))
		rng := rand.New(rand.NewPCG(h.Sum64(), 0))
		v := make([]float32, 6)
		for _, place := range rng.Perm(6)[:4] {
			v[place] = rng.Float32() - 0.3
			if v[place] > 0 {
				v[place] = 0.5
			} else {
				v[place] = -0.5
			}
		}
		vectors[i] = v
	}
	return vectors, nil
}

// A comparison has the bank and the reference that it is compared with.
type comparison struct {
	bank      *memory.Bank
	reference *memorytest.Reference
	db        *sql.DB
	episodes  int
}

func (w *comparison) learn(t *rapid.T) {
	e := memory.Experience{
		Scope:  rapid.SampledFrom([]string{"s", "other"}).Draw(t, "scope"),
		States: rapid.SliceOfN(stateNames, 1, 4).Draw(t, "states"),
		Tip: memory.Tip{
			Text:    rapid.SampledFrom([]string{"", "go north", "stay", "look", "open it"}).Draw(t, "tip"),
			Score:   float64(rapid.IntRange(-1, 1).Draw(t, "score")),
			Episode: w.episodes,
		},
	}
	w.episodes++
	for _, s := range []memory.Strategy{w.bank, w.reference} {
		if err := s.Learn(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *comparison) commit(t *rapid.T) {
	keep := rapid.IntRange(0, 3).Draw(t, "0 rolls back") != 0
	for _, s := range []memory.Strategy{w.bank, w.reference} {
		if err := memorytest.Commit(context.Background(), w.db, s, keep); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *comparison) compare(t *rapid.T) {
	s := memory.State{
		Scope: rapid.SampledFrom([]string{"s", "other"}).Draw(t, "scope"),
		Text:  stateNames.Draw(t, "state"),
	}
	want, err := w.reference.Recall(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.bank.Recall(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("recall %+v (-reference +bank):\n%s", s, diff)
	}
}

var stateNames = rapid.Map(rapid.IntRange(0, 11), func(n int) string { return fmt.Sprint("room ", n) })

func TestBankEqualsTheReference(t *testing.T) {
	db := memorytest.DB(t)
	rapid.Check(t, func(t *rapid.T) {
		for _, table := range []string{"entries", "tips", "states", "meta"} {
			if _, err := db.Exec("DELETE FROM memory_" + table); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.Exec("DELETE FROM sqlite_sequence"); err != nil {
			t.Fatal(err)
		}
		c := memory.DefaultConfig(coarse{})
		c.K = rapid.IntRange(1, 4).Draw(t, "k")
		c.Threshold = rapid.SampledFrom([]float64{-0.25, 0, 0.5, 0.75}).Draw(t, "threshold")
		c.NoveltyCap = rapid.IntRange(0, 3).Draw(t, "novelty cap")
		c.MaxScopes = rapid.IntRange(1, 2).Draw(t, "scopes in RAM")
		c.Capacity = rapid.IntRange(1, 12).Draw(t, "capacity")
		if rapid.Bool().Draw(t, "count states") { // the reference never deletes a visit
			c.Novelty, c.Capacity = memory.NoveltyStates, 100
			if rapid.Bool().Draw(t, "each once") {
				c.Novelty = memory.NoveltyDistinct
			}
		}
		bank, err := memory.OpenBank(context.Background(), db, c)
		if err != nil {
			t.Fatal(err)
		}
		w := &comparison{bank: bank, reference: memorytest.NewReference(c), db: db}
		for range rapid.IntRange(1, 3).Draw(t, "commits") {
			for range rapid.IntRange(0, 6).Draw(t, "episodes") {
				w.learn(t)
			}
			w.commit(t)
			for range 4 {
				w.compare(t)
			}
		}
	})
}

// BenchmarkRecall measures a recall in a full scope of distinct states.
func BenchmarkRecall(b *testing.B) {
	db := memorytest.DB(b)
	bank := openBank(b, db)
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 1000 {
		learn(b, bank, episode(n, fmt.Sprint("tip ", n), rng.Float64(), fmt.Sprintf(
			"A hall of number %d with %d doors and %d windows, and a table.", n, rng.IntN(9), rng.IntN(9))))
	}
	commit(b, db, bank)
	s := memory.State{Scope: "s", Text: "A hall of number 3 with 4 doors and 5 windows, and a table."}
	for b.Loop() {
		if _, err := bank.Recall(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReload measures the reading of a full scope, which happens once a step.
func BenchmarkReload(b *testing.B) {
	db := memorytest.DB(b)
	bank := openBank(b, db)
	for n := range 1000 {
		learn(b, bank, episode(n, fmt.Sprint("tip ", n), 1, fmt.Sprint("room ", n)))
	}
	commit(b, db, bank)
	for b.Loop() {
		fresh, err := memory.OpenBank(b.Context(), db, memory.DefaultConfig(embed.NGram{}))
		if err != nil {
			b.Fatal(err)
		}
		recall(b, fresh, "s", "room 1")
	}
}
