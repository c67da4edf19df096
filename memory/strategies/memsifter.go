package strategies

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/empo2/empo2/memory"
)

// MemSifterConfig sets up MemSifter (arXiv 2603.03379; plageon/MemSifter@92f0eae4).
type MemSifterConfig struct {
	Embedder memory.Embedder
	K        int // memories to show
	// Prefilter is the number of most similar memories that are ranked; the paper's ranking
	// has 10.
	Prefilter int
	// Threshold is the cosine that a memory must exceed.
	Threshold float64
	Capacity  int // memories of a scope
	// Walks stores whole episodes as the paper does, instead of their tips.
	Walks bool
	// Prior is the outcome score of a memory that was never shown. A prior above the
	// outcomes of useless memories has each tried once.
	Prior float64
}

// MemSifter ranks the memories that similarity has found by what they were worth to the
// policy, and shows the first k.
//
// Deviation: the paper trains a small language model that reads the task and the memories
// and writes the ranking. Here the outcome scores the ranking in the same way
// ([SiftReward]), and each memory keeps the mean reward of the rankings that showed it.
type MemSifter struct{ config MemSifterConfig }

// sifted is one memory. A scope's first case has no tip: it is the baseline.
type sifted struct {
	Tip      memory.Tip `json:"tip"`
	Score    float64    `json:"score"`  // mean reward of the rankings that showed it
	Weight   float64    `json:"weight"` // sum of the weights in that mean
	Baseline *baseline  `json:"baseline,omitempty"`
}

// OpenMemSifter opens the memory in db.
func OpenMemSifter(ctx context.Context, db *sql.DB, c MemSifterConfig) (memory.Strategy, error) {
	if c.Embedder == nil {
		return nil, errors.New("open memory: memsifter needs an embedder")
	}
	if c.K < 1 || c.Prefilter < c.K || c.Capacity < 1 {
		return nil, errors.New("open memory: memsifter needs k ≥ 1, prefilter ≥ k and capacity ≥ 1")
	}
	return open(ctx, db, "memsifter", c.Embedder, method[sifted](MemSifter{c}))
}

// rankWeight is D_k = 1/log2(k+1), the weight of rank k ≥ 1.
func rankWeight(k int) float64 { return 1 / math.Log2(float64(k)+1) }

// SiftReward is what a ranking was worth: R = Σ_n D_n (s_{k_n} − s_{k_{n−1}}) with
// s_{k_0} = s₀, the score without memory. scores[n] is the score with the first tiers[n]
// memories. (The reference's code starts at the second tier, which loses the first
// difference.)
func SiftReward(without float64, tiers []int, scores []float64) float64 {
	reward, before := 0.0, without
	for n, k := range tiers {
		reward += rankWeight(k) * (scores[n] - before)
		before = scores[n]
	}
	return reward
}

func (s MemSifter) recall(q query, m *scope[sifted]) memory.Recollection {
	hits := m.similar(q.vector, s.config.Threshold)
	out := memory.Recollection{Similar: len(hits)}
	hits = hits[:min(len(hits), s.config.Prefilter)]
	scores := make([]float64, len(hits))
	for i, h := range hits {
		scores[i] = s.score(h.data)
	}
	for _, i := range descending(scores) { // of equal scores the most similar is first
		if len(out.Tips) < s.config.K {
			out.Tips = append(out.Tips, m.tip(hits[i].kase, hits[i].data.Tip, hits[i].data.Tip.Text))
		}
	}
	return out
}

func (s MemSifter) score(c sifted) float64 {
	if c.Weight == 0 {
		return s.config.Prior
	}
	return c.Score
}

// learn scores the rankings of the episode. Each turn's ranking has one tier, the number
// of memories that it showed. A memory at rank i gets it with weight D_i.
func (s MemSifter) learn(e episode, m *scope[sifted]) {
	base := m.find(func(c *kase[sifted]) bool { return c.data.Baseline != nil })
	if base == nil {
		base = m.add(nil, nil, sifted{Baseline: &baseline{}})
	}
	if delta, ok := worth(e, *base.data.Baseline); ok {
		for _, turn := range e.Turns {
			if n := len(turn.Shown); n > 0 {
				s.credit(turn.Shown, SiftReward(0, []int{n}, []float64{delta}), m)
			}
		}
	}
	next := base.data.Baseline.with(e)
	base.data.Baseline, base.changed = &next, true
	s.store(e, m)
	for len(m.cases)-1 > s.config.Capacity {
		oldest := m.find(func(c *kase[sifted]) bool { return c.data.Baseline == nil })
		m.remove(oldest)
	}
}

func (s MemSifter) credit(ids []int64, reward float64, m *scope[sifted]) {
	for i, id := range ids {
		if c := m.get(id); c != nil {
			w := rankWeight(i + 1)
			c.data.Weight, c.changed = c.data.Weight+w, true
			c.data.Score += (reward - c.data.Score) * w / c.data.Weight
		}
	}
}

// store adds the episode's tip, or the whole episode. An equal text gets the new keys.
func (s MemSifter) store(e episode, m *scope[sifted]) {
	t := e.Tip
	if s.config.Walks {
		t.Text = walk(e)
	}
	if t.Text == "" || len(e.States) == 0 {
		return
	}
	same := m.find(func(c *kase[sifted]) bool { return c.data.Baseline == nil && c.data.Tip.Text == t.Text })
	if same == nil {
		m.add(e.States, e.vectors, sifted{Tip: t})
		return
	}
	same.addKeys(e.States, e.vectors)
}

// walk is an episode in one line.
func walk(e episode) string {
	var parts []string
	for t, turn := range e.Turns {
		parts = append(parts, e.States[t]+" → "+turn.Action)
	}
	if len(parts) == 0 {
		return ""
	}
	return memory.CleanTip(strings.ReplaceAll(
		fmt.Sprintf("%s (return %.2f)", strings.Join(parts, " | "), e.Return), "\n", " "), 0)
}
