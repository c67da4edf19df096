package view

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/prompt"
)

// Tip is a text that episodes wrote or saw as a tip, within a scope of the memory.
// Tips of equal text are one: the policy cannot tell them apart.
type Tip struct {
	ID    string `json:"id"` // names the tip in the run: the key of its scope and text
	Scope string `json:"scope"`
	Text  string `json:"text"`
	// Written counts the training episodes that wrote it, and Author is the first of
	// them; Author is nil if it was imported, or not written yet.
	Written int    `json:"written"`
	Author  *Place `json:"author"`
	// Version is that of the policy that wrote it first.
	Version int `json:"version"`
	// Stored counts its copies in the memory, and Score is the best of theirs: the
	// return of the episode that wrote it.
	Stored int     `json:"stored"`
	Pinned bool    `json:"pinned"` // it stays in the memory
	Score  float64 `json:"score"`
	// Shown counts the prompts of training episodes that showed it, Seen the episodes.
	Shown int `json:"shown"`
	Seen  int `json:"seen"`
	// FirstShown and LastShown are steps; 0: it was never shown.
	FirstShown int64 `json:"first_shown"`
	LastShown  int64 `json:"last_shown"`

	Association *Association `json:"association"` // nil: nothing can be compared

	key   ledger.TipKey
	found Place      // an episode that saw or wrote it
	seen  []sighting // in the order of steps
}

// sighting is a training episode that saw a tip.
type sighting struct{ task, episode int32 } // indices

// gathering collects the tips of a run.
type gathering struct {
	tips  map[ledger.TipKey]*Tip
	tasks []taskReturns
	index map[string]int32 // of tasks
}

func (g *gathering) tip(key ledger.TipKey) *Tip {
	if g.tips[key] == nil {
		g.tips[key] = &Tip{ID: hex.EncodeToString(key[:]), key: key, found: Everywhere}
	}
	return g.tips[key]
}

// add counts what a training episode saw and wrote.
func (g *gathering) add(row ledger.Row) error {
	place := Place{row.Step, row.Group, row.Episode.Episode}
	task, known := g.index[row.Task]
	if !known {
		task = int32(len(g.tasks))
		g.index[row.Task], g.tasks = task, append(g.tasks, taskReturns{})
	}
	t := &g.tasks[task]
	complete := row.Facts.EachTip(func(key ledger.TipKey, shown int) {
		tip := g.tip(key)
		if tip.found == Everywhere {
			tip.found = place
		}
		if shown == 0 {
			if tip.Written++; tip.Author == nil {
				tip.Author = &place
			}
			return
		}
		if tip.Seen++; tip.FirstShown == 0 {
			tip.FirstShown = row.Step
		}
		tip.Shown += shown
		tip.LastShown = row.Step
		tip.seen = append(tip.seen, sighting{task, int32(len(t.results))})
	})
	if !complete {
		return fmt.Errorf("the tips of episode %s in run.db: %w", place, ledger.ErrDamaged)
	}
	t.steps, t.results = append(t.steps, row.Step), append(t.results, row.EnvReturn)
	return nil
}

// gather reads the tips of all training episodes.
func (r *Run) gather(ctx context.Context) (*gathering, error) {
	if err := r.ledger.FillFacts(ctx, orchestrator.FactsOf); err != nil {
		return nil, err
	}
	g := &gathering{tips: map[ledger.TipKey]*Tip{}, index: map[string]int32{}}
	f := ledger.AllOf("")
	f.Order = ledger.OldestFirst
	if err := r.ledger.Rows(ctx, f, g.add); err != nil {
		return nil, err
	}
	stored, err := memory.Stored(ctx, r.DB(), "")
	if err != nil {
		return nil, err
	}
	for _, s := range stored {
		tip := g.tip(ledger.KeyOfTip(s.Scope, s.Text))
		if tip.Stored == 0 || s.Score > tip.Score {
			tip.Score, tip.Version = s.Score, s.Version
		}
		tip.Scope, tip.Text = s.Scope, s.Text
		tip.Stored++
	}
	err = memory.Pinned(ctx, r.DB(), func(scope, text string) { g.tip(ledger.KeyOfTip(scope, text)).Pinned = true })
	return g, err
}

// associate sets the association of each tip that was shown.
func (g *gathering) associate() {
	levels := levelsOf(g.tasks)
	high := highest(levels)
	for i := range g.tasks {
		g.tasks[i].sum(high)
	}
	for _, tip := range g.tips {
		of := map[int32][]int32{}
		var order []int32 // of tasks, so that sums are reproducible
		for _, s := range tip.seen {
			if of[s.task] == nil {
				order = append(order, s.task)
			}
			of[s.task] = append(of[s.task], s.episode)
		}
		var strata []stratum
		for _, task := range order {
			s := g.tasks[task].compared(of[task], high)
			if s.seen.n > 0 && s.others.n > 0 {
				strata = append(strata, s)
			}
		}
		if len(strata) > 0 {
			a := associationOf(strata, levels)
			tip.Association = &a
		}
	}
}

// TipQuery selects tips. The zero value selects all.
type TipQuery struct {
	Scope, Text  string // Text is a part of the tip's, in any case; empty: any
	Task         string // those that an episode of the task saw or wrote; empty: any
	ByDifference bool   // the largest difference of its association is first
	Limit        int    // 0: none
}

// Tips returns the tips of a run. Those that were seen by most episodes are first.
// all is the number of tips of the run.
func (r *Run) Tips(ctx context.Context, q TipQuery) (out []Tip, all int, err error) {
	g, err := r.gather(ctx)
	if err != nil {
		return nil, 0, err
	}
	g.associate()
	sorted := make([]*Tip, 0, len(g.tips))
	task, known := g.index[q.Task]
	for _, tip := range g.tips {
		if q.Task == "" || known && slices.ContainsFunc(tip.seen, func(s sighting) bool { return s.task == task }) {
			sorted = append(sorted, tip)
		}
	}
	slices.SortFunc(sorted, func(a, b *Tip) int {
		if q.ByDifference {
			if c := byDifference(a, b); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(b.Seen, a.Seen), cmp.Compare(b.Shown, a.Shown), cmp.Compare(a.Scope, b.Scope),
			cmp.Compare(a.Text, b.Text), bytes.Compare(a.key[:], b.key[:]))
	})
	for _, tip := range sorted {
		if q.Limit > 0 && len(out) == q.Limit {
			break
		}
		if err := r.resolve(ctx, tip); err != nil {
			return nil, 0, err
		}
		if (q.Scope == "" || q.Scope == tip.Scope) &&
			strings.Contains(strings.ToLower(tip.Text), strings.ToLower(q.Text)) {
			out = append(out, *tip)
		}
	}
	return out, len(g.tips), nil
}

// byDifference puts the largest differences first, and tips without a comparison last.
func byDifference(a, b *Tip) int {
	switch {
	case a.Association == nil && b.Association == nil:
		return 0
	case a.Association == nil:
		return 1
	case b.Association == nil:
		return -1
	}
	return cmp.Compare(b.Association.Difference, a.Association.Difference)
}

// resolve sets the text of a tip that is not in the memory, and the version of its
// author, which an episode that wrote or saw it has.
func (r *Run) resolve(ctx context.Context, tip *Tip) error {
	place := tip.found
	if tip.Author != nil {
		place = *tip.Author
	} else if tip.Text != "" {
		return nil
	}
	e, err := r.At(ctx, "", place)
	if errors.Is(err, ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	scope := e.Trajectory.Task.Scope
	if tip.Author != nil && ledger.KeyOfTip(scope, e.Tip) == tip.key {
		tip.Scope, tip.Text, tip.Version = scope, e.Tip, e.Trajectory.TipVersion
		return nil
	}
	for _, turn := range e.Trajectory.Turns {
		for _, shown := range turn.Tips {
			if ledger.KeyOfTip(scope, shown.Text) == tip.key {
				tip.Scope, tip.Text = scope, shown.Text
				return nil
			}
		}
	}
	return nil
}

// Authors returns the episodes that wrote the tips that an episode saw. A tip that was
// imported has no author.
func (r *Run) Authors(ctx context.Context, e Episode) (map[prompt.Tip]Place, error) {
	out := map[prompt.Tip]Place{}
	for _, turn := range e.Trajectory.Turns {
		for _, tip := range turn.Tips {
			place, err := ParsePlace(tip.Author)
			if err != nil || !place.One() || out[tip] == place {
				continue
			}
			author, err := r.At(ctx, "", place)
			if err != nil && !errors.Is(err, ErrNone) {
				return nil, err
			}
			if err == nil && author.Tip == tip.Text { // else another run has this place
				out[tip] = place
			}
		}
	}
	return out, nil
}
