package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/page"
	"github.com/empo2/empo2/orchestrator/view"
)

// A readBank is the memory of a run that is open for reading.
type readBank struct {
	*memory.Bank
	embedder memory.Embedder
}

// openRecall opens the memory of a run with the embedder of its own configuration.
func openRecall(ctx context.Context, r *view.Run) (b readBank, err error) {
	text, err := r.Config(ctx)
	if err != nil {
		return b, err
	}
	c, err := parseStored(text, r.Dir)
	if err != nil {
		return b, err
	}
	if b.embedder, err = embedders[c.Memory.Embedder](ctx, c.Memory); err != nil {
		return b, err
	}
	if b.Bank, err = memory.OpenBank(ctx, r.DB(), memoryConfig(c, b.embedder)); err == nil {
		err = b.CheckEmbedder(ctx)
	}
	if err != nil {
		return b, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close ends the embedder. The run is the caller's.
func (b readBank) Close() error {
	if server, ok := b.embedder.(io.Closer); ok {
		return server.Close()
	}
	return nil
}

// maxRecallScopes is the number of scopes that are asked at once.
const maxRecallScopes = 64

// recalled is what the memory recalls in one scope, as tips --recall --json prints it.
type recalled struct {
	Scope   string        `json:"scope"`
	Similar int           `json:"similar"`
	Tips    []recalledTip `json:"tips"`
}

// A recalledTip has the similarity of the most similar state that it is stored with.
type recalledTip struct {
	memory.Tip
	Similarity float64 `json:"similarity"`
}

// recallIn returns what the memory recalls for a state: in one scope, or in each if
// scope is empty. A memory without tips in the scope recalls nothing.
func recallIn(ctx context.Context, r *view.Run, scope, state string) (found []recalled, err error) {
	stored, err := memory.Stored(ctx, r.DB(), scope)
	if err != nil || len(stored) == 0 {
		return nil, err
	}
	var scopes []string // the tips are listed scope by scope
	for _, t := range stored {
		if n := len(scopes); n == 0 || scopes[n-1] != t.Scope {
			scopes = append(scopes, t.Scope)
		}
	}
	bank, err := openRecall(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bank.Close()) }()
	vectors, err := bank.embedder.Embed(ctx, state)
	if err != nil {
		return nil, err
	}
	for _, s := range scopes[:min(len(scopes), maxRecallScopes)] {
		answer, err := bank.Recall(ctx, memory.State{Scope: s, Text: state})
		if err != nil {
			return nil, err
		}
		in := recalled{Scope: s, Similar: answer.Similar, Tips: []recalledTip{}}
		for _, t := range answer.Tips {
			similarity, err := memory.Similarity(ctx, r.DB(), t.ID, vectors[0])
			if err != nil {
				return nil, err
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
