package rollout

import (
	"slices"

	"github.com/empo2/empo2/sampler/prompt"
)

// tipsShown remembers which tips stand in the conversation, so that none is shown
// twice. Under KeepLatest earlier tips have left the prompt and may come
// again; only doubles within a turn are dropped.
type tipsShown struct {
	forget bool
	ids    map[int64]bool
	texts  map[string]bool
}

func newTipsShown(k Keep) *tipsShown {
	return &tipsShown{forget: k == KeepLatest, ids: map[int64]bool{}, texts: map[string]bool{}}
}

// pick returns the first distinct tips that do not stand in the conversation
// yet, at most limit (0: all).
func (s *tipsShown) pick(tips []prompt.Tip, limit int) []prompt.Tip {
	var picked []prompt.Tip
	for _, t := range tips {
		if limit > 0 && len(picked) == limit {
			break
		}
		same := func(p prompt.Tip) bool { return p.ID == t.ID || p.Text == t.Text }
		if t.Text != "" && !s.ids[t.ID] && !s.texts[t.Text] && !slices.ContainsFunc(picked, same) {
			picked = append(picked, t)
		}
	}
	return picked
}

// add records tips that a sampled prompt has shown.
func (s *tipsShown) add(tips []prompt.Tip) {
	if s.forget {
		return
	}
	for _, t := range tips {
		s.ids[t.ID], s.texts[t.Text] = true, true
	}
}
