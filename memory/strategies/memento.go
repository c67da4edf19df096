package strategies

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"math/rand/v2"

	"github.com/empo2/empo2/memory"
)

// MementoConfig sets up Memento (arXiv 2508.16153v2; Agent-on-the-Fly/Memento@42fbbcac;
// equation numbers are the paper's).
type MementoConfig struct {
	Embedder memory.Embedder
	Phrase   Phrase
	K        int // cases to show; paper: 4 is best
	// Candidates is the number of most similar cases among which the policy μ chooses.
	Candidates int
	// Threshold is the cosine that a case must exceed to be a candidate.
	Threshold float64
	Capacity  int // cases of a scope
	// Temperature is α, the weight of the entropy. μ = softmax(Q/α). Towards 0 the cases
	// of the highest Q are chosen. 0 ranks by similarity alone (the paper's
	// non-parametric memory), and nothing is learnt about cases.
	Temperature float64
	// Rate is η, the learning rate of Q.
	Rate float64
	// Discount is γ of the bootstrapped target; 0: the target is the outcome of the
	// episode, as in the released code, which has no bootstrap (Eq. 15).
	Discount float64
}

// Memento stores cases (state, action, outcome) and learns which of them help: it
// chooses the cases to show by a soft Q policy, while the language model stays as it is.
//
// Deviations: the paper's Q is a network over a pair of texts; here each case has a Q of
// its own. The released code stores the last step of a trajectory; here every step is a
// case, and its outcome is the mean return from there on. The paper appends a case each
// time; here equal states with equal actions are one case, so that they do not crowd out
// others.
type Memento struct{ config MementoConfig }

// experienced is a case.
type experienced struct {
	Tip    memory.Tip `json:"tip"` // its provenance
	Action string     `json:"action"`
	Return float64    `json:"return"` // mean, from this step on
	N      int        `json:"n"`      // times that it happened
	Q      float64    `json:"q"`
	Uses   int        `json:"uses"`
}

// OpenMemento opens the memory in db.
func OpenMemento(ctx context.Context, db *sql.DB, c MementoConfig) (memory.Strategy, error) {
	switch {
	case c.Embedder == nil || c.Phrase == nil:
		return nil, errors.New("open memory: memento needs an embedder and a phrase")
	case c.K < 1 || c.Candidates < c.K || c.Capacity < 1 || !(c.Temperature >= 0) ||
		!(c.Rate >= 0 && c.Rate <= 1) || !(c.Discount >= 0 && c.Discount <= 1):
		return nil, errors.New(
			"open memory: memento needs k ≥ 1, candidates ≥ k, capacity ≥ 1, a temperature ≥ 0, and η and γ in [0, 1]")
	}
	return open(ctx, db, "memento", c.Embedder, method[experienced](Memento{c}))
}

func (s Memento) recall(q query, m *scope[experienced]) memory.Recollection {
	hits := m.similar(q.vector, s.config.Threshold)
	out := memory.Recollection{Similar: len(hits)}
	hits = hits[:min(len(hits), s.config.Candidates)]
	for _, i := range s.order(hits, q.rng) {
		if len(out.Tips) == s.config.K {
			break
		}
		h := hits[i]
		value := []Action{{h.data.Action, h.data.Return}}
		text := ""
		if h.data.Return > 0 {
			text = s.config.Phrase(h.keys[0], value, nil)
		} else {
			text = s.config.Phrase(h.keys[0], nil, value)
		}
		out.Tips = append(out.Tips, m.tip(h.kase, h.data.Tip, text))
	}
	return out
}

// order returns the candidates in the order in which μ draws them without replacement
// (Gumbel top-k).
func (s Memento) order(hits []hit[experienced], rng *rand.Rand) []int {
	keys := make([]float64, len(hits))
	for i, h := range hits {
		if s.config.Temperature > 0 {
			keys[i] = h.data.Q/s.config.Temperature - math.Log(-math.Log(1-rng.Float64()))
		} else {
			keys[i] = h.similarity
		}
	}
	return descending(keys)
}

// softValue is α log Σ exp(Q/α), the value of a state under μ. Eq. 8 prints exp(Q); this
// form is the one that is consistent with Eq. 7, μ = softmax(Q/α). No case has value 0.
func softValue(q []float64, alpha float64) float64 {
	if len(q) == 0 {
		return 0
	}
	most := math.Inf(-1)
	for _, v := range q {
		most = max(most, v)
	}
	if alpha == 0 {
		return most
	}
	sum := 0.0
	for _, v := range q {
		sum += math.Exp((v - most) / alpha)
	}
	return most + alpha*math.Log(sum)
}

// learn moves Q of each case that was shown towards its target:
//
//	Q ← Q + η [ G − Q ]                          the return from there on (Eq. 15's target)
//	Q ← Q + η [ r + γ α log Σ exp(Q(s',·)/α) − Q ]   with Discount > 0 (Eq. 8)
func (s Memento) learn(e episode, m *scope[experienced]) {
	g := returns(e.Turns, 1)
	for t, turn := range e.Turns {
		target := g[t]
		if s.config.Discount > 0 {
			target = turn.Reward
			if t+1 < len(e.Turns) {
				target += s.config.Discount * s.value(e.vectors[t+1], m)
			}
		}
		for _, id := range turn.Shown {
			if c := m.get(id); c != nil {
				c.data.Q += s.config.Rate * (target - c.data.Q)
				c.data.Uses, c.changed = c.data.Uses+1, true
			}
		}
	}
	for t, turn := range e.Turns {
		if e.States[t] != "" && turn.Action != "" {
			s.store(e, t, g[t], m)
		}
	}
	for len(m.cases) > s.config.Capacity {
		m.remove(m.cases[0])
	}
}

// store adds a step as a case, or to the case of the same state and action.
func (s Memento) store(e episode, t int, outcome float64, m *scope[experienced]) {
	c := m.find(func(c *kase[experienced]) bool {
		return c.data.Action == e.Turns[t].Action && c.keys[0] == e.States[t]
	})
	if c == nil {
		c = m.add(e.States[t:t+1], e.vectors[t:t+1], experienced{Action: e.Turns[t].Action})
	}
	c.data.Tip, c.changed = e.Tip, true
	c.data.N++
	c.data.Return += (outcome - c.data.Return) / float64(c.data.N)
}

// value is the soft value of the candidates of a state.
func (s Memento) value(state []float32, m *scope[experienced]) float64 {
	var q []float64
	for _, h := range m.similar(state, s.config.Threshold) {
		if len(q) < s.config.Candidates {
			q = append(q, h.data.Q)
		}
	}
	return softValue(q, s.config.Temperature)
}
