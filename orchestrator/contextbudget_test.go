package orchestrator

import (
	"context"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/rollout"
)

// Episodes that fill the context end without an error, count, and are reflected
// upon like the others.
func TestEpisodesThatFillTheContextHaveTheirTip(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps, c.Eval.Every, c.Reflection.MaxTokens = 1, 0, 60 }))
	w.backend.Context = 340
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	m := w.steps[0]
	if m.Stops[rollout.StopContextFull] == 0 || m.Failed != 0 {
		t.Fatalf("stops %v, %d failed", m.Stops, m.Failed)
	}
	if want := m.Free.N + m.Tips.N; m.NewTips != want {
		t.Errorf("%d tips of %d episodes, %d of which filled the context", m.NewTips, want,
			m.Stops[rollout.StopContextFull])
	}
}
