package strategies

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/empo2/empo2/memory"
)

// Margin is a loss of a pair of memories by m = f_rev − f_i, where f_i is the score of the
// memory that should be ranked higher.
type Margin string

// The margins. Since ln[σ(x)/σ(−x)] = x, the paper's loss is linear.
const (
	MarginLinear   Margin = "linear"   // the paper's: m, unbounded
	MarginSigmoid  Margin = "sigmoid"  // the code's: σ(m) − σ(−m)
	MarginLogistic Margin = "logistic" // ln(1+e^m), the ordinary choice
)

// loss returns the loss of m.
func (k Margin) loss(m float64) float64 {
	switch k {
	case MarginSigmoid:
		return math.Tanh(m / 2) // = σ(m) − σ(−m)
	case MarginLogistic:
		return math.Log1p(math.Exp(-math.Abs(m))) + max(m, 0)
	}
	return m
}

// slope returns the derivative of the loss at m.
func (k Margin) slope(m float64) float64 {
	sigma := 1 / (1 + math.Exp(-m))
	switch k {
	case MarginSigmoid:
		return 2 * sigma * (1 - sigma)
	case MarginLogistic:
		return sigma
	}
	return 1
}

// GatedConfig sets up the retrieval of Learn to Memorize (arXiv 2508.16629;
// nuster1128/learn_to_memorize@0d508cb3).
type GatedConfig struct {
	Embedder memory.Embedder
	K        int // tips to recall
	// Threshold is the cosine that a memory must exceed.
	Threshold float64
	Capacity  int // memories of a scope
	// Powers is the largest power p of the recency −δ^p; the reference has 4.
	Powers int
	// Hidden is the width of the gate's hidden layer; reference: 256. 0: the gate has no
	// input and learns one weight for each feature.
	Hidden int
	Rate   float64 // of SGD; reference: 0.05 on-policy
	Epochs int     // steps of SGD on the pairs of an episode
	Margin Margin
	// Decay is γ of the weight γ^v of a pair; reference: 0.2.
	Decay float64
}

// Gated ranks the memories by a learnt mixture of features: f(s, m) = g·d, where d has the
// cosine and powers of the recency, and g = softmax(W₂ σ(W₁[h_s; h_m] + b₁) + b₂) is a gate.
// The gate of a scope learns from the order in which memories were shown in successful and
// failed episodes.
//
// Deviations: the features emotion and importance, the merging of memories and the rules for
// writing them need further models and are left out. In the paper the pairs are over all
// memories, here over those that were shown.
type Gated struct{ config GatedConfig }

// remembered is one memory. A scope's first case has no tip: it is the gate.
type remembered struct {
	Tip  memory.Tip `json:"tip"`
	Time int64      `json:"time"` // episodes of the scope before it
	Gate *gate      `json:"gate,omitempty"`
	Now  int64      `json:"now,omitempty"` // of the gate: episodes of the scope
}

// OpenGated opens the memory in db.
func OpenGated(ctx context.Context, db *sql.DB, c GatedConfig) (memory.Strategy, error) {
	switch {
	case c.Embedder == nil:
		return nil, errors.New("open memory: gated needs an embedder")
	case c.K < 1 || c.Capacity < 1 || c.Powers < 0 || c.Hidden < 0 || c.Epochs < 0 || !(c.Rate >= 0) ||
		!(c.Decay >= 0 && c.Decay <= 1):
		return nil, errors.New("open memory: gated needs k, capacity ≥ 1, and a decay in [0, 1]")
	case !slices.Contains([]Margin{MarginLinear, MarginSigmoid, MarginLogistic}, c.Margin):
		return nil, fmt.Errorf("open memory: unknown margin %q", c.Margin)
	}
	return open(ctx, db, "gated", c.Embedder, method[remembered](Gated{c}))
}

// features are d: the cosine, then −δ^p for p = 0…Powers with δ = (now − t_m)/(now − t_first).
// The feature of p = 0 is the constant −1, as in the code.
func (g Gated) features(cosine float64, c remembered, first, now int64) []float64 {
	delta := 0.0
	if now > first {
		delta = float64(now-c.Time) / float64(now-first)
	}
	d := []float64{cosine}
	for p := range g.config.Powers + 1 {
		d = append(d, -math.Pow(delta, float64(p)))
	}
	return d
}

// clock returns the time of the oldest memory and the present one.
func clock(m *scope[remembered]) (first, now int64) {
	first = math.MaxInt64
	for _, c := range m.cases {
		if c.data.Gate != nil {
			now = c.data.Now
		} else {
			first = min(first, c.data.Time)
		}
	}
	return min(first, now), now
}

// gateOf returns the case with the gate of a scope, or nil.
func gateOf(m *scope[remembered]) *kase[remembered] {
	return m.find(func(c *kase[remembered]) bool { return c.data.Gate != nil })
}

func (g Gated) recall(q query, m *scope[remembered]) memory.Recollection {
	hits := m.similar(q.vector, g.config.Threshold)
	out := memory.Recollection{Similar: len(hits)}
	if len(hits) == 0 {
		return out
	}
	first, now := clock(m)
	net := gateOf(m).data.Gate
	scores := make([]float64, len(hits))
	for i, h := range hits {
		d := g.features(h.similarity, h.data, first, now)
		scores[i] = net.score(inputOf(q.vector, h.nearest(q.vector), net.Hidden), d)
	}
	for _, i := range descending(scores) {
		if len(out.Tips) < g.config.K {
			out.Tips = append(out.Tips, m.tip(hits[i].kase, hits[i].data.Tip, hits[i].data.Tip.Text))
		}
	}
	return out
}

// nearest returns the key that is most similar to v.
func (c *kase[T]) nearest(v []float32) []float32 {
	var best []float32
	for _, key := range c.vectors {
		if best == nil || dot(key, v) > dot(best, v) {
			best = key
		}
	}
	return best
}

func (g Gated) learn(e episode, m *scope[remembered]) {
	own := gateOf(m)
	if own == nil {
		size := 0
		if g.config.Hidden > 0 && len(e.vectors) > 0 {
			size = 2 * len(e.vectors[0])
		}
		own = m.add(nil, nil, remembered{Gate: newGate(size, g.config.Hidden, g.config.Powers+2)})
	}
	for _, pair := range g.pairs(e, m) {
		for range g.config.Epochs {
			own.data.Gate.train(pair, g.config.Margin, g.config.Rate)
		}
	}
	own.changed = true
	if e.Tip.Text != "" && len(e.States) > 0 {
		g.store(e, own.data.Now, m)
	}
	own.data.Now++
	for len(m.cases)-1 > g.config.Capacity {
		m.remove(m.find(func(c *kase[remembered]) bool { return c.data.Gate == nil }))
	}
}

// store adds the episode's tip. An equal text gets the new keys and the new time.
func (g Gated) store(e episode, now int64, m *scope[remembered]) {
	same := m.find(func(c *kase[remembered]) bool { return c.data.Gate == nil && c.data.Tip.Text == e.Tip.Text })
	if same == nil {
		m.add(e.States, e.vectors, remembered{Tip: e.Tip, Time: now})
		return
	}
	same.addKeys(e.States, e.vectors)
	same.data.Tip, same.data.Time, same.changed = e.Tip, now, true
}

// pairs returns the pairs of an episode: in each turn the memory that was shown at rank i with
// the one at rank t−i+1. The first should be ranked higher after a success, and lower after a
// failure. v = (t−1−|i−i_rev|)/2 is 0 for the first and the last.
func (g Gated) pairs(e episode, m *scope[remembered]) (out []pair) {
	first, now := clock(m)
	for t, turn := range e.Turns {
		var cases []*kase[remembered]
		for _, id := range turn.Shown {
			if c := m.get(id); c != nil {
				cases = append(cases, c)
			}
		}
		n, sum, at := len(cases), 0.0, len(out)
		for i := range n / 2 {
			p := pair{weight: math.Pow(g.config.Decay, float64(i))}
			sum += p.weight
			if !e.Success {
				p.weight = -p.weight
			}
			for k, c := range []*kase[remembered]{cases[i], cases[n-1-i]} {
				near := c.nearest(e.vectors[t])
				p.features[k] = g.features(c.similarity(e.vectors[t]), c.data, first, now)
				p.inputs[k] = inputOf(e.vectors[t], near, g.config.Hidden)
			}
			out = append(out, p)
		}
		for i := at; i < len(out); i++ {
			out[i].weight /= sum
		}
	}
	return out
}
