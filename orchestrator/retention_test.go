package orchestrator

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/rollout"
)

// With run.keep_episodes old episodes lose their texts and ids. The run computes the
// same, its memory still equals a replay, a check finds no damage, and the run can be
// continued and can go back.
func TestOldEpisodesAreSlimmed(t *testing.T) {
	ctx := context.Background()
	run := func(keep, steps int, dir string) *world {
		w := newWorld(t, small(func(c *config.Config) { c.Run.Steps, c.Run.KeepEpisodes, c.Eval.Every = steps, keep, 2 }))
		if dir != "" {
			w.dir, w.trainer.root = dir, dir
		}
		if _, err := w.run(ctx); err != nil {
			t.Fatal(err)
		}
		return w
	}
	all, slim := run(0, 5, ""), run(2, 3, "")
	slim = run(2, 5, slim.dir) // a continued run knows what it has slimmed
	l, err := ledger.OpenReader(ctx, slim.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	whole, err := ledger.OpenReader(ctx, all.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	for step := int64(1); step <= 5; step++ {
		want, got := trajectoriesOf(t, whole, step), trajectoriesOf(t, l, step)
		if len(got) != len(want) {
			t.Fatalf("step %d: %d episodes, want %d", step, len(got), len(want))
		}
		for i, g := range got {
			w := want[i]
			turn := g.Turns[0]
			dropped := turn.Prompt == nil && turn.IDs == nil && g.RowsWithTips == nil
			if old := step <= 3; g.Slim != old || old && !dropped {
				t.Errorf("step %d, episode %d: slim %v", step, i, g.Slim)
			}
			same := g.Tip == w.Tip && g.Seed == w.Seed && g.Score == w.Score && g.Stop == w.Stop &&
				turn.Action == w.Turns[0].Action && cmp.Equal(turn.Tips, w.Turns[0].Tips) && cmp.Equal(g.States(), w.States())
			if !same {
				t.Errorf("step %d, episode %d: another result: %+v, want %+v", step, i, g, w)
			}
			if !g.Slim && !cmp.Equal(g.Turns, w.Turns, cmpopts.IgnoreFields(rollout.Turn{}, "Took", "Sample")) {
				t.Errorf("step %d, episode %d was changed", step, i)
			}
		}
		evaluated, err := l.Untrained(ctx, "eval", step)
		if err != nil || len(evaluated) > 0 && step <= 3 {
			t.Errorf("step %d has %d episodes of an evaluation, %v", step, len(evaluated), err)
		}
	}
	m := memory.DefaultConfig(embed.NGram{})
	m.K = slim.config.Memory.K
	report, err := Check(ctx, slim.dir, replayedBank(m))
	if err != nil || len(report.Problems) > 0 {
		t.Fatalf("check: %v, %+v", err, report)
	}
	if a, b := oldBytes(t, l), oldBytes(t, whole); 2*a > b {
		t.Errorf("the old episodes take %d bytes, with all texts %d", a, b)
	}
}

// oldBytes is the size of the episodes of the first three steps.
func oldBytes(t *testing.T, l *ledger.Ledger) (n int) {
	t.Helper()
	const query = "SELECT sum(length(trajectory) + length(tokens) + length(logprobs)) FROM episodes WHERE step <= 3"
	if err := l.DB().QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func trajectoriesOf(t *testing.T, l *ledger.Ledger, step int64) []rollout.Trajectory {
	t.Helper()
	stored, err := l.Episodes(context.Background(), step)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]rollout.Trajectory, len(stored))
	for i, e := range stored {
		if out[i], err = EpisodeOf(e); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// A long action is cut between two characters.
func TestSlimActions(t *testing.T) {
	long := ""
	for len(long) < 200 {
		long += "é界"
	}
	e := retention{memory: false}.slim(rollout.Trajectory{Turns: []rollout.Turn{{Action: long}, {Action: "north"}}})
	if got := e.Turns[0].Action; got != "é界é界é界é界é界é界é界é界é界é界é界é界é界é界é界é界…" {
		t.Errorf("got %q (%d bytes)", got, len(got))
	}
	if e.Turns[1].Action != "north" {
		t.Errorf("got %q", e.Turns[1].Action)
	}
}
