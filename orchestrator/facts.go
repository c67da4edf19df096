package orchestrator

import (
	"bytes"
	"maps"
	"slices"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// FactsOf computes the facts of a stored episode, for [ledger.Ledger.FillFacts].
func FactsOf(e ledger.Episode) (*ledger.Facts, error) {
	t, err := EpisodeOf(e)
	if err != nil {
		return nil, err
	}
	return factsOf(t), nil
}

// factsOf is what lists and filters need of an episode.
func factsOf(t rollout.Trajectory) *ledger.Facts {
	f := &ledger.Facts{Turns: len(t.Turns), Tips: []byte{}}
	shown := map[ledger.TipKey]int{}
	for _, turn := range t.Turns {
		f.TipsShown += len(turn.Tips)
		for _, tip := range turn.Tips {
			shown[ledger.KeyOfTip(t.Task.Scope, tip.Text)]++
		}
		if turn.Finish == sampler.FinishLength {
			f.Cut++
		}
		if turn.Action == "" {
			f.Empty++
		}
	}
	compare := func(a, b ledger.TipKey) int { return bytes.Compare(a[:], b[:]) }
	for _, key := range slices.SortedFunc(maps.Keys(shown), compare) {
		f.Tips = ledger.AppendTip(f.Tips, key, shown[key])
	}
	if t.Tip != "" {
		f.Tips = ledger.AppendTip(f.Tips, ledger.KeyOfTip(t.Task.Scope, t.Tip), 0)
	}
	return f
}
