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
	if b.Bank, err = memory.OpenBank(ctx, r.DB(), memoryConfig(c, b.embedder)); err != nil {
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

// maxRecallScopes is the number of scopes that the page asks at once.
const maxRecallScopes = 64

// recallForPage returns the tips that the memory recalls for a state: in one scope, or
// in each if scope is empty, the most similar first.
func recallForPage(ctx context.Context, r *view.Run, scope, state string) (found []page.Recalled, err error) {
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
		for _, t := range answer.Tips {
			similarity, err := memory.Similarity(ctx, r.DB(), t.ID, vectors[0])
			if err != nil {
				return nil, err
			}
			found = append(found, page.Recalled{Text: t.Text, Scope: s, Similarity: similarity, Score: t.Score})
		}
	}
	if len(scopes) > 1 { // within a scope, the order is the memory's
		slices.SortStableFunc(found, func(a, b page.Recalled) int { return cmp.Compare(b.Similarity, a.Similarity) })
	}
	return found, nil
}
