package orchestrator

import (
	"context"
	"database/sql"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/memory/strategies"
	"github.com/empo2/empo2/orchestrator/config"
)

// A run with another memory than the bank of tips continues after a stop, with the same
// memory as without the stop, and the memory equals a replay of the episodes.
func TestAStoppedRunWithAnotherMemoryContinues(t *testing.T) {
	for name, open := range map[string]OpenMemory{
		"umem": func(ctx context.Context, db *sql.DB, e memory.Embedder) (memory.Strategy, error) {
			return strategies.OpenUMem(ctx, db, strategies.UMemConfig{Embedder: e, K: 3, Threshold: 0.5, Capacity: 100,
				Lambda: 0.5, Noise: 1, Floor: 0.1})
		},
		"rememberer": func(ctx context.Context, db *sql.DB, e memory.Embedder) (memory.Strategy, error) {
			return strategies.OpenRememberer(ctx, db, strategies.RemembererConfig{Embedder: e, Phrase: strategies.Plain, K: 3,
				Threshold: 0.5, Capacity: 100, Actions: 9, Discount: 1})
		},
		"jitrl": func(ctx context.Context, db *sql.DB, _ memory.Embedder) (memory.Strategy, error) {
			return strategies.OpenJitRL(ctx, db, strategies.JitRLConfig{Neighbours: 9, Threshold: 0.8, Capacity: 100,
				Discount: 0.5, Beta: 3, Explore: 0.1, Bonus: 0.1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			world := func() *world {
				w := newWorld(t, small(func(c *config.Config) {
					c.Algorithm.Name, c.Memory.Strategy, c.Run.KeepEpisodes = "adapt", name, 1
					c.Memory.Rememberer.Actions, c.Memory.JitRL.Candidates = 9, 2
				}))
				w.openMemory = func(ctx context.Context, db *sql.DB) (memory.Strategy, error) {
					return open(ctx, db, embed.NGram{})
				}
				return w
			}
			whole, stopped := world(), world()
			if _, err := whole.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			stopped.stopAfter(len(whole.backend.Calls()) / 2)
			if _, err := stopped.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			a, closeA := whole.open()
			defer closeA()
			b, closeB := stopped.open()
			defer closeB()
			difference, err := memory.Difference(t.Context(), a.Ledger.DB(), b.Ledger.DB())
			if err != nil || difference != "" {
				t.Errorf("after a stop the memory is another one: %s, %v", difference, err)
			}
			if scopes, err := memory.CaseScopes(t.Context(), a.Ledger.DB()); err != nil || len(scopes) == 0 {
				t.Errorf("the memory has no scope, %v", err)
			}
			replayed := Replayed{Open: open, Embedder: embed.NGram{}}
			if err := checkMemory(t.Context(), b.Ledger, replayed); err != nil {
				t.Errorf("the memory and a replay: %v", err)
			}
		})
	}
}

// memory.control plays a share of each adaptation group without memory, and a run without a
// memory plays all so.
func TestControlOfAnAdaptation(t *testing.T) {
	f := func(strategy string, control float64, want int) {
		t.Helper()
		c := small(func(c *config.Config) {
			c.Algorithm.Name, c.Memory.Strategy, c.Memory.Control = "adapt", strategy, control
		})
		for g, group := range newPlan(c, []envs.Task{{ID: "a", Scope: "a"}}, 1, 0).Groups {
			without := 0
			for _, e := range group.Episodes {
				if !e.Mode.Tips() {
					without++
				}
			}
			if without != want {
				t.Errorf("%s, control %g: %d episodes of group %d without memory, want %d", strategy, control, without, g, want)
			}
		}
	}
	f("umem", 0, 0)
	f("umem", 0.25, 2)
	f("none", 0, 8)
}
