package strategies

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/empo2/empo2/memory"
)

// JitRLConfig sets up JitRL (arXiv 2601.18510; equation numbers are the paper's).
type JitRLConfig struct {
	// Neighbours is the size of N(s); paper: 10.
	Neighbours int
	// Threshold is the similarity that an entry of N(s) must reach; paper: 0.8 to 0.95.
	Threshold float64
	Capacity  int // entries of a scope; the paper forgets nothing
	// Discount is γ of the returns; paper: 0.5 (games), 0.1 (web).
	Discount float64
	// Beta is β, the weight of the advantages beside the log-probabilities. 0 leaves
	// the policy as it is. The paper's value is not known to us.
	Beta float64
	// Explore is λ, the probability of the bonus for an action without an entry;
	// paper: 0.65 (games), 0.05 (web).
	Explore float64
	// Bonus is α, the size of that bonus in the units of the returns; paper: 5 for
	// rewards from -3 to 3. It must have the size of the rewards.
	Bonus float64
}

// JitRL changes the policy's choice instead of its prompt. It stores each action with
// its return, and adds the normalised advantage of an action to its log-probability:
// the exact solution of max E_π'[Â] − KL(π'‖π)/β, which is π' ∝ π·exp(βÃ).
//
// It follows the paper, not the code of liushiliushi/JitRL@143d2218, which adds the
// advantage to a probability and takes the largest. Returns are those of the
// environment; the paper has a language model judge each step.
type JitRL struct{ config JitRLConfig }

// step is one entry: what was done in a state, and the return from there on.
type step struct {
	Action string  `json:"action"`
	Return float64 `json:"return"`
}

// OpenJitRL opens the memory in db. It is a [memory.Chooser].
func OpenJitRL(ctx context.Context, db *sql.DB, c JitRLConfig) (memory.Strategy, error) {
	if c.Neighbours < 1 || c.Capacity < 1 || !(c.Beta >= 0) || !(c.Bonus >= 0) ||
		!(c.Discount >= 0 && c.Discount <= 1) || !(c.Explore >= 0 && c.Explore <= 1) {
		return nil, errors.New("open memory: jitrl needs neighbours, capacity ≥ 1, β, α ≥ 0, and γ, λ in [0, 1]")
	}
	j := JitRL{c}
	s, err := open(ctx, db, "jitrl", nil, method[step](j))
	if err != nil {
		return nil, err
	}
	return choosing[step]{s, j}, nil
}

func (j JitRL) recall(q query, m *scope[step]) memory.Recollection {
	return memory.Recollection{Similar: len(j.near(q.text, m))}
}

// near returns N(s): the most similar entries that reach the threshold, and of equally
// similar ones the newest.
func (j JitRL) near(state string, m *scope[step]) []step {
	type scored struct {
		step
		similarity float64
	}
	var found []scored
	known := map[string]float64{} // an episode stores the same state again and again
	for i := len(m.cases) - 1; i >= 0; i-- {
		c := m.cases[i]
		similarity, ok := known[c.keys[0]]
		if !ok {
			similarity = jaccard(state, c.keys[0])
			known[c.keys[0]] = similarity
		}
		if similarity >= j.config.Threshold {
			found = append(found, scored{c.data, similarity})
		}
	}
	slices.SortStableFunc(found, func(a, b scored) int { return cmp.Compare(b.similarity, a.similarity) })
	var steps []step
	for _, f := range found[:min(len(found), j.config.Neighbours)] {
		steps = append(steps, f.step)
	}
	return steps
}

// jaccard is the similarity of two texts: common words over all words, as multisets. The
// paper found it better than embeddings.
func jaccard(a, b string) float64 {
	if a == b {
		return 1
	}
	count := map[string]int{}
	x, y := strings.Fields(a), strings.Fields(b)
	for _, word := range x {
		count[word]++
	}
	common := 0
	for _, word := range y {
		if count[word] > 0 {
			count[word]--
			common++
		}
	}
	if all := len(x) + len(y) - common; all > 0 {
		return float64(common) / float64(all)
	}
	return 0
}

// advantages returns Ã for each action. bonus says for each whether the coin of Eq. 6
// gave it the bonus if it has no entry.
//
//	V̂ = mean of G over N(s);   Q̂(a) = mean of G over the entries with action a
//	a not in N(s): Q̂ = V̂ + α/|N(s)| with the bonus, else 0            (Eq. 6)
//	Â(a) = Q̂(a) − V̂;   Ã = Â / max_a |Â|                              (Eq. 25)
func (j JitRL) advantages(near []step, actions []string, bonus func(i int) bool) []float64 {
	a, v := make([]float64, len(actions)), 0.0
	if len(near) == 0 {
		return a
	}
	for _, s := range near {
		v += s.Return / float64(len(near))
	}
	largest := 0.0
	for i, action := range actions {
		sum, n := 0.0, 0.0
		for _, s := range near {
			if s.Action == action {
				sum, n = sum+s.Return, n+1
			}
		}
		q := 0.0
		switch {
		case n > 0:
			q = sum / n
		case bonus(i):
			q = v + j.config.Bonus/float64(len(near))
		}
		a[i] = q - v
		largest = max(largest, math.Abs(a[i]))
	}
	for i := range a {
		if largest > 0 {
			a[i] /= largest
		}
	}
	return a
}

// choose samples softmax(z + βÃ) over the candidates and the actions of N(s).
//
// An action that only the memory knows starts at z = 0 (Eq. 23). Logits have no fixed
// zero: here the likeliest candidate has z = 0, so such an action starts equal to it.
func (j JitRL) choose(q query, candidates []memory.Candidate, m *scope[step]) string {
	near := j.near(q.text, m)
	top := math.Inf(-1)
	for _, c := range candidates {
		top = max(top, c.Logprob)
	}
	var actions []string
	var z []float64
	for _, c := range candidates {
		actions, z = append(actions, c.Action), append(z, c.Logprob-top)
	}
	for _, s := range near {
		if j.config.Beta > 0 && !slices.Contains(actions, s.Action) {
			actions, z = append(actions, s.Action), append(z, 0)
		}
	}
	advantages := j.advantages(near, actions, func(int) bool { return q.rng.Float64() < j.config.Explore })
	for i := range z {
		z[i] += j.config.Beta * advantages[i]
	}
	return actions[sample(q.rng, softmax(z))]
}

func (j JitRL) learn(e episode, m *scope[step]) {
	g := returns(e.Turns, j.config.Discount)
	for t, turn := range e.Turns {
		if e.States[t] != "" && turn.Action != "" {
			m.add(e.States[t:t+1], nil, step{turn.Action, g[t]})
		}
	}
	for len(m.cases) > j.config.Capacity {
		m.remove(m.cases[0])
	}
}
