package memorytest

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"
	"sync"

	"github.com/empo2/empo2/memory"
)

// Reference is [memory.Bank] in the simplest form: lists in RAM and linear
// search. It loses everything when the process ends.
type Reference struct {
	config memory.Config

	mu      sync.Mutex
	buffer  []memory.Experience
	entries []refEntry // oldest first
	visits  []refVisit // never deleted
	learnt  map[[3]int64]bool
	lastID  int64
}

type refEntry struct {
	state string
	tip   memory.Tip
}

type refVisit struct{ scope, state string }

var _ memory.Strategy = (*Reference)(nil)

// NewReference returns an empty memory. It ignores c.MaxScopes, and c.Capacity for
// visited states.
func NewReference(c memory.Config) *Reference {
	return &Reference{config: c, learnt: map[[3]int64]bool{}}
}

// Learn implements [memory.Strategy].
func (r *Reference) Learn(_ context.Context, e memory.Experience) error {
	e.Tip.Scope, e.Tip.Text = e.Scope, memory.CleanTip(e.Tip.Text, 0)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buffer = append(r.buffer, e)
	return nil
}

// Commit implements [memory.Strategy].
func (r *Reference) Commit(context.Context, *sql.Tx) (func(bool), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.buffer
	r.buffer = nil
	return func(committed bool) {
		if committed {
			r.apply(taken)
		}
	}, nil
}

func (r *Reference) apply(experiences []memory.Experience) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortStableFunc(experiences, func(a, b memory.Experience) int {
		return cmp.Or(cmp.Compare(a.Tip.Step, b.Tip.Step), cmp.Compare(a.Tip.Group, b.Tip.Group),
			cmp.Compare(a.Tip.Episode, b.Tip.Episode))
	})
	for _, e := range experiences {
		name := [3]int64{e.Tip.Step, int64(e.Tip.Group), int64(e.Tip.Episode)}
		if r.learnt[name] && e.Tip.Step != 0 {
			continue
		}
		r.learnt[name] = true
		r.visit(e)
		r.store(e)
	}
	perScope := make(map[string]int)
	for _, e := range r.entries {
		perScope[e.tip.Scope]++
	}
	r.entries = slices.DeleteFunc(r.entries, func(e refEntry) bool {
		perScope[e.tip.Scope]--
		return perScope[e.tip.Scope] >= r.config.Capacity
	})
}

func (r *Reference) store(e memory.Experience) {
	if e.Tip.Text == "" {
		return
	}
	r.lastID++
	e.Tip.ID = r.lastID
	for _, state := range e.States {
		r.entries = slices.DeleteFunc(r.entries, func(old refEntry) bool {
			return old.state == state && old.tip.Scope == e.Scope && old.tip.Text == e.Tip.Text
		})
	}
	var stored []string
	for _, state := range e.States {
		if !slices.Contains(stored, state) {
			stored = append(stored, state)
			r.entries = append(r.entries, refEntry{state, e.Tip})
		}
	}
}

func (r *Reference) visit(e memory.Experience) {
	for _, state := range e.States {
		r.visits = append(r.visits, refVisit{e.Scope, state})
	}
}

// Recall implements [memory.Strategy].
func (r *Reference) Recall(ctx context.Context, s memory.State) (memory.Recollection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	type candidate struct {
		tip    memory.Tip
		cosine float32
		age    int
	}
	var near []candidate
	for i, e := range r.entries {
		cosine, err := r.cosine(ctx, e.state, s.Text)
		if err != nil {
			return memory.Recollection{}, err
		}
		if e.tip.Scope == s.Scope && float64(cosine) > r.config.Threshold {
			near = append(near, candidate{e.tip, cosine, len(r.entries) - i})
		}
	}
	result := memory.Recollection{Similar: len(near)}
	if r.config.Novelty != memory.NoveltyTips {
		result.Similar = 0
		once := map[string]bool{}
		for _, v := range r.visits {
			if r.config.Novelty == memory.NoveltyDistinct && once[v.scope+"\x00"+v.state] {
				continue
			}
			once[v.scope+"\x00"+v.state] = true
			cosine, err := r.cosine(ctx, v.state, s.Text)
			if err != nil {
				return memory.Recollection{}, err
			}
			if v.scope == s.Scope && float64(cosine) > r.config.Threshold {
				result.Similar++
			}
		}
	}
	if limit := r.config.NoveltyCap; limit > 0 {
		result.Similar = min(result.Similar, limit)
	}
	slices.SortFunc(near, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.tip.Score, a.tip.Score), cmp.Compare(b.cosine, a.cosine),
			cmp.Compare(a.age, b.age))
	})
	var shown []string
	for _, c := range near {
		if len(shown) < r.config.K && !slices.Contains(shown, c.tip.Text) {
			shown = append(shown, c.tip.Text)
			result.Tips = append(result.Tips, c.tip)
		}
	}
	return result, nil
}

// cosine returns the same bits for (a, b) and (b, a), so equal pairs rank equally.
func (r *Reference) cosine(ctx context.Context, a, b string) (float32, error) {
	if strings.Compare(a, b) > 0 {
		a, b = b, a
	}
	v, err := r.config.Embedder.Embed(ctx, a, b)
	if err != nil {
		return 0, err
	}
	var sum float32
	for i := range v[0] {
		sum += v[0][i] * v[1][i]
	}
	return sum, nil
}
