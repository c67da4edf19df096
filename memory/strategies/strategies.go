// Package strategies has the memories of neighbouring methods as implementations
// of [memory.Strategy], one file each: rememberer.go, jitrl.go, memento.go,
// umem.go, memsifter.go, gated.go and reflexion.go. The memory of EMPO² is
// [memory.Bank]; a memory of one's own in another process is http.go.
//
// A strategy is a method: two functions over the cases of one scope, recall and
// learn. store.go stores the cases in the run's database, in the transaction of
// the step, and has everything that all strategies share: a commit that can be
// rolled back, episodes that count once, a cache of scopes.
package strategies

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/empo2/empo2/memory"
)

// A query is a recall in the terms of a method.
type query struct {
	text   string
	vector []float32  // of text; nil if the method needs none
	rng    *rand.Rand // of the query's seed
}

// An episode is an experience in the terms of a method.
type episode struct {
	memory.Experience
	vectors [][]float32 // of the states; nil if the method needs none
}

// A method decides what a scope stores and recalls. Both functions are pure
// functions of their arguments, but for the changes of the scope by learn.
type method[T any] interface {
	recall(q query, m *scope[T]) memory.Recollection
	learn(e episode, m *scope[T])
}

// A chooser takes part in the choice among candidates ([memory.Chooser]).
type chooser[T any] interface {
	choose(q query, candidates []memory.Candidate, m *scope[T]) string
}

// Action is an action that the memory knows, and its value in the units of the
// return.
type Action struct {
	Text  string
	Value float64
}

// Phrase says in one line which actions were good in a state, and which were bad.
// It returns "" if there are none.
type Phrase func(state string, good, bad []Action) string

// Plain is the phrase for an environment that has none of its own. It has the form
// of REMEMBERER's exemplars.
func Plain(_ string, good, bad []Action) string {
	var parts []string
	add := func(title string, actions []Action) {
		var list []string
		for _, a := range actions {
			list = append(list, fmt.Sprintf("%s (value %.2f)", a.Text, a.Value))
		}
		if len(list) > 0 {
			parts = append(parts, title+": "+strings.Join(list, ", ")+".")
		}
	}
	add("Encouraged", good)
	add("Discouraged", bad)
	return strings.Join(parts, " ")
}

// worth returns what an episode's memory was worth: its return minus that of
// episodes without tips. ok is false if nothing is known of those.
//
// If the episode's own group has none, the mean of the scope's earlier ones stands
// in. It is exact as long as the policy without memory does not change, as in an
// adaptation run, whose first episodes find an empty memory.
func worth(e episode, b baseline) (delta float64, ok bool) {
	switch {
	case e.WithoutTips != nil:
		return e.Return - *e.WithoutTips, true
	case b.N > 0:
		return e.Return - b.Mean, true
	}
	return 0, false
}

// A baseline is the mean return of a scope's episodes that were shown nothing.
type baseline struct {
	Mean float64 `json:"mean"`
	N    float64 `json:"n"`
}

// with returns the baseline after e.
func (b baseline) with(e episode) baseline {
	if len(shown(e)) == 0 {
		b.N++
		b.Mean += (e.Return - b.Mean) / b.N
	}
	return b
}

// shown returns the ids of all tips that an episode was shown, each once, in the
// order in which they appeared.
func shown(e episode) []int64 {
	var ids []int64
	seen := map[int64]bool{}
	for _, turn := range e.Turns {
		for _, id := range turn.Shown {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// returns are the discounted sums of the rewards from each turn on:
// G_t = r_t + γ G_{t+1}.
func returns(turns []memory.Turn, gamma float64) []float64 {
	g := make([]float64, len(turns))
	sum := 0.0
	for t := len(turns) - 1; t >= 0; t-- {
		sum = turns[t].Reward + gamma*sum
		g[t] = sum
	}
	return g
}

// softmax returns the probabilities that are proportional to exp(z).
func softmax(z []float64) []float64 {
	most := math.Inf(-1)
	for _, v := range z {
		most = max(most, v)
	}
	p, sum := make([]float64, len(z)), 0.0
	for i, v := range z {
		p[i] = math.Exp(v - most)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// sample draws an index with the given probabilities.
func sample(rng *rand.Rand, p []float64) int {
	u := rng.Float64()
	for i, v := range p {
		if u -= v; u < 0 {
			return i
		}
	}
	return len(p) - 1 // the sum of p is a little less than 1
}

func dot(a, b []float32) float64 {
	sum := 0.0
	for i := range min(len(a), len(b)) {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

// descending returns the indices of v, the largest value first, and of equal ones the
// first.
func descending(v []float64) []int {
	order := make([]int, len(v))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(v[b], v[a]) })
	return order
}
