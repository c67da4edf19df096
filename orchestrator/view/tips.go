package view

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/sampler/prompt"
)

// Tip is a text that episodes wrote or saw as a tip, within a scope of the memory.
// Tips of equal text are one: the policy cannot tell them apart.
type Tip struct {
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
	Score  float64 `json:"score"`
	// Shown counts the prompts of training episodes that showed it, Seen the episodes.
	Shown int `json:"shown"`
	Seen  int `json:"seen"`
	// FirstShown and LastShown are steps; 0: it was never shown.
	FirstShown int64 `json:"first_shown"`
	LastShown  int64 `json:"last_shown"`

	Association *Association `json:"association"` // nil: nothing can be compared
}

// tipKey is what makes a tip.
type tipKey struct{ scope, text string }

// played is what is kept of an episode while tips are gathered.
type played struct {
	step   int64
	result float64 // its return
	seen   map[*Tip]bool
}

// gathering collects the tips of a run.
type gathering struct {
	tips     map[tipKey]*Tip
	episodes map[string][]played // by task, in the order of steps
}

func (g *gathering) tip(scope, text string) *Tip {
	key := tipKey{scope, text}
	if g.tips[key] == nil {
		g.tips[key] = &Tip{Scope: scope, Text: text}
	}
	return g.tips[key]
}

// add counts what a training episode saw and wrote.
func (g *gathering) add(e Episode) {
	scope := e.Trajectory.Task.Scope
	p := played{step: e.Place.Step, result: e.Return, seen: map[*Tip]bool{}}
	for _, turn := range e.Trajectory.Turns {
		for _, shown := range turn.Tips {
			tip := g.tip(scope, shown.Text)
			tip.Shown++
			p.seen[tip] = true
		}
	}
	for tip := range p.seen {
		tip.Seen++
		tip.LastShown = p.step
		if tip.FirstShown == 0 {
			tip.FirstShown = p.step
		}
	}
	if e.Tip != "" {
		tip := g.tip(scope, e.Tip)
		tip.Written++
		if tip.Author == nil {
			tip.Author, tip.Version = &e.Place, e.Trajectory.TipVersion
		}
	}
	g.episodes[e.Task] = append(g.episodes[e.Task], p)
}

// Tips returns the tips of a run. Those that were shown most are first.
func (r *Run) Tips(ctx context.Context) ([]Tip, error) {
	g := gathering{tips: map[tipKey]*Tip{}, episodes: map[string][]played{}}
	err := r.Episodes(ctx, Query{In: Everywhere}, func(e Episode) error {
		g.add(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	stored, err := memory.Stored(ctx, r.DB(), "")
	if err != nil {
		return nil, err
	}
	for _, s := range stored {
		tip := g.tip(s.Scope, s.Text)
		if tip.Stored == 0 || s.Score > tip.Score {
			tip.Score = s.Score
		}
		tip.Stored++
	}
	g.associate()
	out := make([]Tip, 0, len(g.tips))
	for _, tip := range g.tips {
		out = append(out, *tip)
	}
	slices.SortFunc(out, func(a, b Tip) int {
		return cmp.Or(cmp.Compare(b.Seen, a.Seen), cmp.Compare(b.Shown, a.Shown), cmp.Compare(a.Scope, b.Scope),
			cmp.Compare(a.Text, b.Text))
	})
	return out, nil
}

// Authors returns the episodes that wrote the tips that an episode saw. A tip that was
// imported has no author.
func (r *Run) Authors(ctx context.Context, e Episode) (map[prompt.Tip]Place, error) {
	out := map[prompt.Tip]Place{}
	for _, turn := range e.Trajectory.Turns {
		for _, tip := range turn.Tips {
			place, err := ParsePlace(tip.Author)
			if err != nil || !place.One() {
				continue
			}
			author, err := r.first(ctx, Query{In: place})
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
