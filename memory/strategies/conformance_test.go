package strategies

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/memory/memorytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opened has a small configuration of every strategy of this package.
func opened(capacity int) map[string]func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
	e := embed.NGram{}
	return map[string]func(t *testing.T, db *sql.DB) (memory.Strategy, error){
		"reflexion": func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
			return OpenReflexion(t.Context(), db, ReflexionConfig{Window: 3, Capacity: capacity})
		},
		"rememberer": func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
			return OpenRememberer(t.Context(), db, RemembererConfig{Embedder: e, Phrase: Plain, K: 2, Threshold: 0.5,
				Capacity: capacity, Actions: 3, Discount: 0.9, Horizon: 2})
		},
		"jitrl": func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
			return OpenJitRL(t.Context(), db, JitRLConfig{Neighbours: 5, Threshold: 0.8, Capacity: capacity, Discount: 0.5,
				Beta: 3, Explore: 0.3, Bonus: 0.1})
		},
		"memento": func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
			return OpenMemento(t.Context(), db, MementoConfig{Embedder: e, Phrase: Plain, K: 2, Candidates: 5, Threshold: 0.5,
				Capacity: capacity, Temperature: 0.2, Rate: 0.3, Discount: 0.9})
		},
		"umem": func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
			return OpenUMem(t.Context(), db, UMemConfig{Embedder: e, K: 2, Threshold: 0.5, Capacity: capacity, Lambda: 0.5,
				Noise: 1, Floor: 0.1})
		},
		"memsifter": func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
			return OpenMemSifter(t.Context(), db, MemSifterConfig{Embedder: e, K: 2, Prefilter: 5, Threshold: 0.5,
				Capacity: capacity, Walks: true, Prior: 1})
		},
		"credit": func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
			return OpenCredit(t.Context(), db, CreditConfig{Embedder: e, K: 2, Threshold: 0.5, Capacity: capacity})
		},
		"gated": func(t *testing.T, db *sql.DB) (memory.Strategy, error) {
			return OpenGated(t.Context(), db, GatedConfig{Embedder: e, K: 2, Threshold: 0.5, Capacity: capacity, Powers: 2,
				Hidden: 2, Rate: 0.05, Epochs: 1, Margin: MarginLogistic, Decay: 0.2})
		},
	}
}

func TestGeneralProperties(t *testing.T) {
	for name := range opened(1) {
		t.Run(name, func(t *testing.T) {
			memorytest.RunGeneral(t, memorytest.Subject{
				Open: func(t *testing.T, db *sql.DB, capacity int) memory.Strategy {
					t.Helper()
					s, err := opened(capacity)[name](t, db)
					if err != nil {
						t.Fatal(err)
					}
					return s
				},
				Size: func(t *testing.T, db *sql.DB, scope string) (n int) {
					t.Helper()
					err := memory.Cases(t.Context(), db, scope, func(c memory.Case) error {
						if !strings.Contains(string(c.Data), `"baseline"`) && !strings.Contains(string(c.Data), `"gate"`) {
							n++
						}
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
					return n
				},
			})
		})
	}
}

// A memory that one strategy wrote is not opened by another one, and a damaged case is found.
func TestAnotherStrategyOrADamagedCase(t *testing.T) {
	for name, open := range opened(9) {
		t.Run(name, func(t *testing.T) {
			db := memorytest.DB(t)
			s, err := open(t, db)
			if err != nil {
				t.Fatal(err)
			}
			learnOne(t, db, s)
			if _, err := memory.OpenBank(t.Context(), db, memory.DefaultConfig(embed.NGram{})); err == nil ||
				!strings.Contains(err.Error(), fmt.Sprintf("written by strategy %q", name)) {
				t.Errorf("opened as a bank of tips: %v", err)
			}
			if err := memory.Verify(t.Context(), db); err != nil {
				t.Errorf("verify: %v", err)
			}
			if _, err := db.Exec("UPDATE memory_cases SET data = replace(data, '0', '1'), keys = keys || ' '"); err != nil {
				t.Fatal(err)
			}
			if err := memory.Verify(t.Context(), db); err == nil || !strings.Contains(err.Error(), "differs from its checksum") {
				t.Errorf("verify of a damaged case: %v", err)
			}
		})
	}
	db := memorytest.DB(t)
	bank, err := memory.OpenBank(t.Context(), db, memory.DefaultConfig(embed.NGram{}))
	if err != nil {
		t.Fatal(err)
	}
	learnOne(t, db, bank)
	const want = `written by strategy "tips"`
	if _, err := opened(9)["reflexion"](t, db); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a bank of tips was opened as another strategy: %v", err)
	}
}

func learnOne(t *testing.T, db *sql.DB, s memory.Strategy) {
	t.Helper()
	err := s.Learn(t.Context(), memory.Experience{Scope: "s", States: []string{"a hall"},
		Turns: []memory.Turn{{Action: "go north", Reward: 0.5}}, Tip: memory.Tip{Text: "Go north.", Step: 1}})
	if err == nil {
		err = memorytest.Commit(t.Context(), db, s, true)
	}
	if err != nil {
		t.Fatal(err)
	}
}
