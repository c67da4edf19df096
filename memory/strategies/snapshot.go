package strategies

import (
	"context"
	"fmt"

	"github.com/empo2/empo2/memory"
)

var _ memory.Snapshotter = (*store[step])(nil)

// Snapshot implements [memory.Snapshotter]. Cases do not say in which step they were
// learnt, so it hides none.
func (s *store[T]) Snapshot(ctx context.Context, scopes []string, _, _ int64) (memory.RecallFunc, error) {
	kept := make(map[string]*scope[T], len(scopes))
	for _, name := range scopes {
		m, err := s.scope(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("keep scope %q: %w", name, err)
		}
		kept[name] = m
	}
	return func(ctx context.Context, state memory.State) (memory.Recollection, error) {
		m := kept[state.Scope]
		if m == nil {
			return memory.Recollection{}, fmt.Errorf("recall in scope %q: it is not in the snapshot", state.Scope)
		}
		q, err := s.query(ctx, state)
		if err != nil {
			return memory.Recollection{}, fmt.Errorf("recall in scope %q: %w", state.Scope, err)
		}
		return s.method.recall(q, m), nil
	}, nil
}
