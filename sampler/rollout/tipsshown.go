package rollout

import (
	"slices"

	"github.com/empo2/empo2/sampler/prompt"
)

// tipsShown records the tips that the conversation shows, so that no tip is shown twice. Under KeepLatest only the tips
// of the current turn count, because earlier tips have left the prompt.
type tipsShown struct {
	latestOnly bool
	ids        map[int64]bool
	texts      map[string]bool
}

func newTipsShown(k Keep) *tipsShown {
	return &tipsShown{latestOnly: k == KeepLatest, ids: map[int64]bool{}, texts: map[string]bool{}}
}

// pick returns the first limit (0: all) distinct tips that the conversation does not show yet.
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

// add records the tips of a prompt that was sampled from.
func (s *tipsShown) add(tips []prompt.Tip) {
	if s.latestOnly {
		return
	}
	for _, t := range tips {
		s.ids[t.ID], s.texts[t.Text] = true, true
	}
}
