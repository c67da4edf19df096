package memory_test

import (
	"context"
	"database/sql"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/empo2/empo2/memory"
)

// gaussian is an embedder whose vectors are random directions that the text determines.
type gaussian struct{}

const gaussianDimension = 384

// Name implements [memory.Embedder].
func (gaussian) Name() string { return fmt.Sprint("gaussian-", gaussianDimension) }

// Embed implements [memory.Embedder].
func (gaussian) Embed(_ context.Context, texts ...string) ([][]float32, error) {
	out := make([][]float32, len(texts))
	for i, text := range texts {
		h := fnv.New64a()
		h.Write([]byte(text))
		rng := rand.New(rand.NewPCG(h.Sum64(), 1))
		out[i] = make([]float32, gaussianDimension)
		sum := 0.0
		for k := range out[i] {
			v := rng.NormFloat64()
			out[i][k], sum = float32(v), sum+v*v
		}
		for k := range out[i] {
			out[i][k] /= float32(math.Sqrt(sum))
		}
	}
	return out, nil
}

// ready is an embedder with one vector: what embedding costs is no part of a recall.
type ready struct {
	gaussian
	vector []float32
}

// Embed implements [memory.Embedder].
func (r ready) Embed(_ context.Context, texts ...string) ([][]float32, error) {
	out := make([][]float32, len(texts))
	for i := range out {
		out[i] = r.vector
	}
	return out, nil
}

// benchSizes are numbers of tips, each with a state of its own.
var benchSizes = []int{1_000, 10_000, 100_000}

// filledBank is a database with n tips of one scope. It is on disk, as that of a run.
func filledBank(b *testing.B, n int) (*sql.DB, memory.Config) {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(b.TempDir(), "bank.db")+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	if err := memory.Migrate(b.Context(), db); err != nil {
		b.Fatal(err)
	}
	c := memory.DefaultConfig(gaussian{})
	c.Capacity, c.Threshold = 2*n, 0.05 // 16 % of random directions are that similar
	bank, err := memory.OpenBank(b.Context(), db, c)
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		learn(b, bank, episode(i, fmt.Sprint("tip ", i), float64(i%101), fmt.Sprint("state ", i)))
	}
	commit(b, db, bank)
	return db, c
}

// BenchmarkBank measures a bank of tips × 384 dimensions:
//
//   - recall: among states of which none was asked for before;
//   - recall-repeated: a state that was asked for since the last commit;
//   - reopen: open the bank and recall, for which it reads the scope;
//   - add: commit 64 experiences with new states, and recall, for which the scope in RAM
//     gets them.
func BenchmarkBank(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint("tips=", n), func(b *testing.B) {
			db, c := filledBank(b, n)
			b.Run("recall", func(b *testing.B) { benchRecall(b, db, c, func(i int) string { return fmt.Sprint("new ", i) }) })
			b.Run("recall-repeated", func(b *testing.B) { benchRecall(b, db, c, func(int) string { return "new" }) })
			b.Run("reopen", func(b *testing.B) {
				measure(b, func(int) { recall(b, openWith(b, db, c), "s", "state 1") })
			})
			added := n
			b.Run("add", func(b *testing.B) {
				bank := openWith(b, db, c)
				recall(b, bank, "s", "state 1")
				measure(b, func(int) {
					for range 64 {
						learn(b, bank, episode(added, fmt.Sprint("tip ", added), 1, fmt.Sprint("state ", added)))
						added++
					}
					commit(b, db, bank)
					recall(b, bank, "s", "state 1")
				})
			})
		})
	}
}

func openWith(b *testing.B, db *sql.DB, c memory.Config) *memory.Bank {
	b.Helper()
	bank, err := memory.OpenBank(b.Context(), db, c)
	if err != nil {
		b.Fatal(err)
	}
	return bank
}

func benchRecall(b *testing.B, db *sql.DB, c memory.Config, state func(i int) string) {
	vectors, err := gaussian{}.Embed(b.Context(), "somewhere")
	if err != nil {
		b.Fatal(err)
	}
	c.Embedder = ready{vector: vectors[0]}
	bank := openWith(b, db, c)
	recall(b, bank, "s", "another place") // it loads the scope
	measure(b, func(i int) { recall(b, bank, "s", state(i)) })
}

// measure calls f b.N times and reports the processor time, which means something on a
// busy machine too.
func measure(b *testing.B, f func(i int)) {
	cpu := cpuTime(b)
	b.ResetTimer()
	for i := range b.N {
		f(i)
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
}
