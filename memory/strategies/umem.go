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

// UMemConfig sets up U-Mem (arXiv 2602.22406, from two secondary readings; no code
// is public).
type UMemConfig struct {
	Embedder memory.Embedder
	K        int // tips to recall; paper: 3
	// Threshold is the cosine that a memory must exceed to be a candidate.
	Threshold float64
	Capacity  int // memories of a scope
	// Lambda is λ, the weight of the utility beside the similarity, in [0, 1]. 0 is
	// plain retrieval. The paper's value is not known to us.
	Lambda float64
	// Noise is σ_n², the variance of a measured worth; paper: 1.
	Noise float64
	// Floor is the smallest variance of a utility, which keeps the exploration
	// alive; paper: 0.1.
	Floor float64
	// Greedy ranks by the mean of the utility instead of a draw.
	Greedy bool
}

// UMem recalls tips by similarity and utility. The utility of a tip is a Gaussian
// belief about what it is worth: the return of an episode that was shown the tip,
// minus the return without tips. Each recall draws from the belief (Thompson
// sampling), so tips of unknown worth are tried.
//
// Deviations: the policy writes every tip itself (the paper asks stronger models
// after a failure); the update and the prior of a new tip are the conjugate forms,
// because the paper's are not known to us; a full scope loses the tip of the lowest
// mean, instead of a maintenance by a language model.
type UMem struct{ config UMemConfig }

// belief is N(Mean, Variance).
type belief struct {
	Mean     float64 `json:"mean"`
	Variance float64 `json:"variance"`
}

// update returns the belief after the measurement of a worth: the conjugate update of
// a Gaussian with known noise.
func (b belief) update(delta, noise, floor float64) belief {
	variance := 1 / (1/b.Variance + 1/noise)
	return belief{variance * (b.Mean/b.Variance + delta/noise), max(variance, floor)}
}

// useful is one tip. A scope's first case has no tip: it is the baseline.
type useful struct {
	Tip      memory.Tip `json:"tip"`
	Utility  belief     `json:"utility"`
	Baseline *baseline  `json:"baseline,omitempty"`
}

// OpenUMem opens the memory in db.
func OpenUMem(ctx context.Context, db *sql.DB, c UMemConfig) (memory.Strategy, error) {
	switch {
	case c.Embedder == nil:
		return nil, errors.New("open memory: umem needs an embedder")
	case c.K < 1 || c.Capacity < 1 || !(c.Noise > 0) || !(c.Floor >= 0) || !(c.Lambda >= 0 && c.Lambda <= 1):
		return nil, errors.New("open memory: umem needs k, capacity ≥ 1, noise > 0, floor ≥ 0 and λ in [0, 1]")
	}
	return open(ctx, db, "umem", c.Embedder, method[useful](UMem{c}))
}

// score is (1−λ)·similarity + λ·ũ with ũ ~ N(μ, σ²). Each call uses one draw.
func (u UMem) score(similarity float64, b belief, normal float64) float64 {
	if u.config.Greedy {
		normal = 0
	}
	return (1-u.config.Lambda)*similarity + u.config.Lambda*(b.Mean+math.Sqrt(b.Variance)*normal)
}

func (u UMem) recall(q query, m *scope[useful]) memory.Recollection {
	hits := m.similar(q.vector, u.config.Threshold)
	out := memory.Recollection{Similar: len(hits)}
	type ranked struct {
		hit[useful]
		score float64
	}
	var all []ranked
	for _, h := range hits {
		all = append(all, ranked{h, u.score(h.similarity, h.data.Utility, q.rng.NormFloat64())})
	}
	slices.SortStableFunc(all, func(a, b ranked) int { return cmp.Compare(b.score, a.score) })
	for _, r := range all[:min(len(all), u.config.K)] {
		out.Tips = append(out.Tips, m.tip(r.kase, r.data.Tip, r.data.Tip.Text))
	}
	return out
}

func (u UMem) learn(e episode, m *scope[useful]) {
	base := m.find(func(c *kase[useful]) bool { return c.data.Baseline != nil })
	if base == nil {
		base = m.add(nil, nil, useful{Baseline: &baseline{}})
	}
	if delta, ok := worth(e, *base.data.Baseline); ok {
		for _, id := range shown(e) {
			if c := m.get(id); c != nil {
				c.data.Utility, c.changed = c.data.Utility.update(delta, u.config.Noise, u.config.Floor), true
			}
		}
	}
	next := base.data.Baseline.with(e)
	base.data.Baseline, base.changed = &next, true
	u.store(e, m)
	for len(m.cases)-1 > u.config.Capacity {
		m.remove(u.worst(m))
	}
}

// store adds the episode's tip. An equal text keeps its utility and gets the new keys.
func (u UMem) store(e episode, m *scope[useful]) {
	if e.Tip.Text == "" || len(e.States) == 0 {
		return
	}
	same := m.find(func(c *kase[useful]) bool { return c.data.Baseline == nil && c.data.Tip.Text == e.Tip.Text })
	if same != nil {
		same.addKeys(e.States, e.vectors)
		same.data.Tip, same.changed = e.Tip, true
		return
	}
	m.add(e.States, e.vectors, useful{Tip: e.Tip, Utility: u.prior(e, m)})
}

// prior is μ₀ = Σ s_i μ_i / Σ s_i over the neighbours of the episode's last state, and
// σ₀² = 1.
func (u UMem) prior(e episode, m *scope[useful]) belief {
	sum, weights := 0.0, 0.0
	for _, h := range m.similar(e.vectors[len(e.vectors)-1], max(u.config.Threshold, 0)) {
		sum, weights = sum+h.similarity*h.data.Utility.Mean, weights+h.similarity
	}
	if weights > 0 {
		sum /= weights
	}
	return belief{sum, 1}
}

// worst is the tip of the lowest mean utility, and of equal ones the oldest.
func (u UMem) worst(m *scope[useful]) *kase[useful] {
	var worst *kase[useful]
	for _, c := range m.cases {
		if c.data.Baseline == nil && (worst == nil || c.data.Utility.Mean < worst.data.Utility.Mean) {
			worst = c
		}
	}
	return worst
}
