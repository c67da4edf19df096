package strategies

import (
	"context"
	"database/sql"
	"errors"
	"math"

	"github.com/empo2/empo2/memory"
)

// CreditConfig sets up tips with credit.
type CreditConfig struct {
	Embedder  memory.Embedder
	K         int     // tips to recall
	Threshold float64 // the cosine that a tip's state must exceed
	Capacity  int     // tips of a scope
}

// Credit is EMPO²'s memory with a learning signal for tips, an extension of ours: the worth
// of a tip is the mean difference between the return of the later episodes that saw it and
// the return without tips. Tips are recalled by similarity × worth, so that tips of low
// worth sink. [memory.Bank] ranks by the score of the episode that wrote the tip, whatever
// happened to those that followed it.
type Credit struct{ config CreditConfig }

// credited is one tip. A scope's first case has no tip: it is the baseline.
type credited struct {
	Tip      memory.Tip `json:"tip"`
	Written  int        `json:"written"` // episodes that wrote it
	Sum      float64    `json:"sum"`     // of the measured differences
	N        int        `json:"n"`
	Baseline *baseline  `json:"baseline,omitempty"`
}

// worth is the mean difference, as if one more episode had shown no difference. A tip that
// was never shown has the worth 0, and one lucky episode counts half.
func (c credited) worth() float64 { return c.Sum / float64(c.N+1) }

// OpenCredit opens the memory in db.
func OpenCredit(ctx context.Context, db *sql.DB, c CreditConfig) (memory.Strategy, error) {
	if c.Embedder == nil || c.K < 1 || c.Capacity < 1 {
		return nil, errors.New("open memory: credit needs an embedder, and k and capacity ≥ 1")
	}
	return open(ctx, db, "credit", c.Embedder, method[credited](Credit{c}))
}

// recall ranks by similarity · (1 + w/max|w|), with the largest worth among the similar
// tips, so that the unit of the returns does not matter. Of equal ranks the best score is
// first, then the newest.
func (s Credit) recall(q query, m *scope[credited]) memory.Recollection {
	hits := m.similar(q.vector, s.config.Threshold)
	var out memory.Recollection
	largest := 0.0
	scores := make([]float64, len(hits))
	for i, h := range hits {
		out.Similar += h.data.Written
		largest = max(largest, math.Abs(h.data.worth()))
		scores[i] = h.data.Tip.Score
	}
	ranks, byScore := make([]float64, len(hits)), descending(scores)
	for i, j := range byScore {
		ranks[i] = hits[j].similarity
		if largest > 0 {
			ranks[i] *= 1 + hits[j].data.worth()/largest
		}
	}
	for _, i := range descending(ranks) {
		if h := hits[byScore[i]]; len(out.Tips) < s.config.K {
			out.Tips = append(out.Tips, m.tip(h.kase, h.data.Tip, h.data.Tip.Text))
		}
	}
	return out
}

func (s Credit) learn(e episode, m *scope[credited]) {
	base := m.find(func(c *kase[credited]) bool { return c.data.Baseline != nil })
	if base == nil {
		base = m.add(nil, nil, credited{Baseline: &baseline{}})
	}
	if delta, ok := worth(e, *base.data.Baseline); ok {
		for _, id := range shown(e) {
			if c := m.get(id); c != nil {
				c.data.Sum, c.data.N, c.changed = c.data.Sum+delta, c.data.N+1, true
			}
		}
	}
	next := base.data.Baseline.with(e)
	base.data.Baseline, base.changed = &next, true
	if e.Tip.Text != "" && len(e.States) > 0 {
		s.store(e, m)
	}
	for len(m.cases)-1 > s.config.Capacity {
		m.remove(s.lowest(m))
	}
}

// store adds the episode's tip. An equal text keeps its worth, and gets the new keys.
func (s Credit) store(e episode, m *scope[credited]) {
	c := m.find(func(c *kase[credited]) bool { return c.data.Baseline == nil && c.data.Tip.Text == e.Tip.Text })
	if c == nil {
		c = m.add(nil, nil, credited{})
	}
	c.addKeys(e.States, e.vectors)
	c.data.Tip, c.data.Written, c.changed = e.Tip, c.data.Written+1, true
}

// lowest is the tip of the lowest worth, and of equal ones the oldest.
func (s Credit) lowest(m *scope[credited]) (lowest *kase[credited]) {
	for _, c := range m.cases {
		if c.data.Baseline == nil && (lowest == nil || c.data.worth() < lowest.data.worth()) {
			lowest = c
		}
	}
	return lowest
}
