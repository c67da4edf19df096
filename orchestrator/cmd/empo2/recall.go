package main

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/page"
	"github.com/empo2/empo2/orchestrator/view"
)

// openRecall opens the memory of a run with the embedder of its own configuration.
func openRecall(ctx context.Context, r *view.Run) (m openedMemory, err error) {
	text, err := r.Config(ctx)
	if err != nil {
		return m, err
	}
	c, err := parseStored(text, r.Dir)
	if err != nil {
		return m, err
	}
	return openMemory(ctx, r.DB(), c)
}

// recallScopes returns the scopes that the memory of a run has tips or cases in: only
// scope, or all if scope is empty.
func recallScopes(ctx context.Context, r *view.Run, scope string) (scopes []string, err error) {
	stored, err := memory.Stored(ctx, r.DB(), scope) // listed scope by scope
	if err != nil {
		return nil, err
	}
	for _, t := range stored {
		if n := len(scopes); n == 0 || scopes[n-1] != t.Scope {
			scopes = append(scopes, t.Scope)
		}
	}
	cases, err := memory.CaseScopes(ctx, r.DB())
	for _, s := range cases {
		if scope == "" || scope == s {
			scopes = append(scopes, s)
		}
	}
	return scopes, err
}

// maxRecallScopes is the number of scopes that are asked at once.
const maxRecallScopes = 64

// recalled is what the memory recalls in one scope, as tips --recall --json prints it.
type recalled struct {
	Scope   string        `json:"scope"`
	Similar int           `json:"similar"`
	Tips    []recalledTip `json:"tips"`
}

// A recalledTip has the similarity of the most similar state that it is stored with; 0 if
// the memory compares no states.
type recalledTip struct {
	memory.Tip
	Similarity float64 `json:"similarity"`
}

// recallIn returns what the memory recalls for a state: in one scope, or in each if
// scope is empty. A memory without tips in the scope recalls nothing.
func recallIn(ctx context.Context, r *view.Run, scope, state string) (found []recalled, err error) {
	scopes, err := recallScopes(ctx, r, scope)
	if err != nil || len(scopes) == 0 {
		return nil, err
	}
	bank, err := openRecall(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bank.Close()) }()
	var vectors [][]float32
	if bank.embedder != nil {
		if vectors, err = bank.embedder.Embed(ctx, state); err != nil {
			return nil, err
		}
	}
	for _, s := range scopes[:min(len(scopes), maxRecallScopes)] {
		answer, err := bank.Recall(ctx, memory.State{Scope: s, Text: state})
		if err != nil {
			return nil, err
		}
		in := recalled{Scope: s, Similar: answer.Similar, Tips: []recalledTip{}}
		for _, t := range answer.Tips {
			similarity := 0.0
			if vectors != nil {
				if similarity, err = memory.Similarity(ctx, r.DB(), t.ID, vectors[0]); err != nil {
					return nil, err
				}
			}
			t.Scope = s
			in.Tips = append(in.Tips, recalledTip{t, similarity})
		}
		found = append(found, in)
	}
	return found, nil
}

// mostSimilar returns the tips of all scopes, the most similar first. Within a single
// scope, the order is the memory's.
func mostSimilar(found []recalled) (tips []recalledTip) {
	for _, in := range found {
		tips = append(tips, in.Tips...)
	}
	if len(found) > 1 {
		slices.SortStableFunc(tips, func(a, b recalledTip) int { return cmp.Compare(b.Similarity, a.Similarity) })
	}
	return tips
}

// recallForPage returns the tips that the memory recalls for a state.
func recallForPage(ctx context.Context, r *view.Run, scope, state string) (out []page.Recalled, err error) {
	found, err := recallIn(ctx, r, scope, state)
	for _, t := range mostSimilar(found) {
		out = append(out, page.Recalled{Text: t.Text, Scope: t.Scope, Similarity: t.Similarity, Score: t.Score})
	}
	return out, err
}
