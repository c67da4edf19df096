package strategies

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/empo2/empo2/memory"
)

var _ memory.Previewer = (*store[step])(nil)

// Preview implements [memory.Previewer], as [memory.Bank] does.
func (s *store[T]) Preview(ctx context.Context, steps [][]memory.Experience, scopes []string) (
	memory.RecallFunc, error) {
	kept, err := s.preview(ctx, steps, scopes)
	if err != nil {
		return nil, fmt.Errorf("preview memory: %w", err)
	}
	return func(ctx context.Context, state memory.State) (memory.Recollection, error) {
		m := kept[state.Scope]
		if m == nil {
			return memory.Recollection{}, fmt.Errorf("recall in scope %q: it is not in the preview", state.Scope)
		}
		q, err := s.query(ctx, state)
		if err != nil {
			return memory.Recollection{}, fmt.Errorf("recall in scope %q: %w", state.Scope, err)
		}
		return s.method.recall(q, m), nil
	}, nil
}

func (s *store[T]) preview(ctx context.Context, steps [][]memory.Experience, scopes []string) (
	map[string]*scope[T], error) {
	episodes := make([][]episode, len(steps))
	for i, step := range steps {
		for _, x := range step {
			e, err := s.episode(ctx, x)
			if err != nil {
				return nil, err
			}
			episodes[i] = append(episodes[i], e)
		}
	}
	kept := make(map[string]*scope[T], len(scopes))
	err := memory.Rehearse(ctx, s.db, func(tx *sql.Tx) error {
		for _, step := range episodes {
			if _, err := s.learn(ctx, tx, step); err != nil {
				return err
			}
		}
		for _, name := range memory.Taught(steps, scopes) {
			m, err := load[T](ctx, tx, name)
			if err != nil {
				return err
			}
			kept[name] = m
		}
		return nil
	})
	for _, name := range scopes {
		if err == nil && kept[name] == nil {
			kept[name], err = s.scope(ctx, name)
		}
	}
	return kept, err
}
