package strategies

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"

	"github.com/empo2/empo2/memory"
)

// RemembererConfig sets up REMEMBERER (arXiv 2306.07929; OpenDFM/Rememberer@552cb62a).
type RemembererConfig struct {
	Embedder memory.Embedder
	Phrase   Phrase
	K        int // records to show; the reference shows 2
	// Threshold is the cosine that a record must exceed. The reference has none.
	Threshold float64
	Capacity  int // records of a scope; reference: 500
	Actions   int // actions of a record; reference: 20
	// Discount is γ; reference: 1.
	Discount float64
	// Horizon is n of the n-step return; 0: the whole episode (Monte Carlo), as in the
	// reference's settings.
	Horizon int
	// Rate is the learning rate of Q; 0: 1/N, the mean. The reference has both, with
	// 0.1 as the constant rate.
	Rate float64
	// Baseline is the value that an encouraged action must exceed. Other actions are
	// discouraged.
	Baseline float64
}

// Rememberer stores the Q-value of each action that was tried in a state. It shows the
// records of the most similar states: the action of the highest Q as encouraged, if it
// exceeds the baseline, and all actions that do not as discouraged.
//
// Deviations: similarity is a cosine of embeddings, not the reference's matchers for
// web pages; only recorded actions are shown (its option norandom); the most similar
// record is first, because a prompt shows the best tips first; there is one pool, not
// two (double Q). Defects of the reference that are not repeated: a full table loses the
// action of the lowest Q, not of the lowest mean reward; an action is discouraged if
// Q ≤ baseline, not if Q = 0.
type Rememberer struct{ config RemembererConfig }

// record is what is known about a state.
type record struct {
	Tip     memory.Tip `json:"tip"` // the provenance of the newest visit
	Actions []tried    `json:"actions"`
	N       int        `json:"n"` // visits
}

// tried is an action of a record.
type tried struct {
	Action string  `json:"action"`
	Reward float64 `json:"reward"` // mean immediate reward
	Q      float64 `json:"q"`
	N      int     `json:"n"`
}

// OpenRememberer opens the memory in db.
func OpenRememberer(ctx context.Context, db *sql.DB, c RemembererConfig) (memory.Strategy, error) {
	switch {
	case c.Embedder == nil || c.Phrase == nil:
		return nil, errors.New("open memory: rememberer needs an embedder and a phrase")
	case c.K < 1 || c.Capacity < 1 || c.Actions < 1 || c.Horizon < 0 || !(c.Rate >= 0 && c.Rate <= 1) ||
		!(c.Discount >= 0 && c.Discount <= 1):
		return nil, errors.New("open memory: rememberer needs k, capacity, actions ≥ 1, and a rate and γ in [0, 1]")
	}
	return open(ctx, db, "rememberer", c.Embedder, method[record](Rememberer{c}))
}

func (r Rememberer) recall(q query, m *scope[record]) memory.Recollection {
	hits := m.similar(q.vector, r.config.Threshold)
	slices.SortStableFunc(hits, func(a, b hit[record]) int {
		return cmp.Or(cmp.Compare(b.similarity, a.similarity), cmp.Compare(b.data.N, a.data.N))
	})
	var out memory.Recollection
	for _, h := range hits {
		out.Similar += h.data.N
	}
	for _, h := range hits {
		good, bad := h.data.verdicts(r.config.Baseline)
		if text := r.config.Phrase(h.keys[0], good, bad); text != "" && len(out.Tips) < r.config.K {
			t := h.data.Tip
			if len(good) > 0 {
				t.Score = good[0].Value
			}
			out.Tips = append(out.Tips, m.tip(h.kase, t, text))
		}
	}
	return out
}

// verdicts returns the encouraged action and the discouraged ones.
func (r record) verdicts(baseline float64) (good, bad []Action) {
	for _, a := range r.Actions {
		switch {
		case a.Q <= baseline:
			bad = append(bad, Action{a.Action, a.Q})
		case len(good) == 0:
			good = []Action{{a.Action, a.Q}}
		case a.Q > good[0].Value:
			good[0] = Action{a.Action, a.Q}
		}
	}
	return good, bad
}

func (r Rememberer) learn(e episode, m *scope[record]) {
	full := newNeighbours(m, r.config.Capacity)
	targets := r.targets(e, m)
	for t, turn := range e.Turns {
		if e.States[t] == "" || turn.Action == "" {
			continue
		}
		c := m.find(func(c *kase[record]) bool { return c.keys[0] == e.States[t] })
		if c == nil {
			c = full.insert(m, e.States[t], e.vectors[t])
		}
		if c == nil { // the new state adds less than what is stored
			continue
		}
		c.data.Tip, c.data.N, c.changed = e.Tip, c.data.N+1, true
		c.data.Actions = r.update(c.data.Actions, turn, targets[t])
	}
}

// targets returns Q̂ of each turn, from the memory before the episode:
//
//	Q̂_t = Σ_{i<n} γ^i r_{t+1+i} + γ^n max_a Q(s_{t+n}, a)
//
// The last n turns have the remaining rewards only.
func (r Rememberer) targets(e episode, m *scope[record]) []float64 {
	n := r.config.Horizon
	if n == 0 {
		return returns(e.Turns, r.config.Discount)
	}
	out := make([]float64, len(e.Turns))
	for t := range out {
		for i := range min(n, len(e.Turns)-t) {
			out[t] += math.Pow(r.config.Discount, float64(i)) * e.Turns[t+i].Reward
		}
		if t+n < len(e.Turns) {
			out[t] += math.Pow(r.config.Discount, float64(n)) * best(m, e.vectors[t+n])
		}
	}
	return out
}

// best is the highest Q of the record of a state. If the state is not stored, the most
// similar record stands in; an empty memory has 0.
func best(m *scope[record], state []float32) float64 {
	hits := m.similar(state, math.Inf(-1))
	if len(hits) == 0 {
		return 0
	}
	q := math.Inf(-1)
	for _, a := range hits[0].data.Actions {
		q = max(q, a.Q)
	}
	return q
}

// update moves Q of an action towards a target. A full table loses the lowest Q.
func (r Rememberer) update(actions []tried, turn memory.Turn, target float64) []tried {
	i := slices.IndexFunc(actions, func(a tried) bool { return a.Action == turn.Action })
	if i < 0 {
		i = len(actions)
		actions = append(actions, tried{Action: turn.Action})
	}
	a := &actions[i]
	a.N++
	rate := 1 / float64(a.N)
	a.Reward += (turn.Reward - a.Reward) * rate
	if r.config.Rate > 0 {
		rate = r.config.Rate
	}
	a.Q += rate * (target - a.Q)
	if len(actions) > r.config.Actions {
		lowest := slices.IndexFunc(actions, func(a tried) bool {
			return !slices.ContainsFunc(actions, func(b tried) bool { return b.Q < a.Q })
		})
		actions = slices.Delete(actions, lowest, lowest+1)
	}
	return actions
}
