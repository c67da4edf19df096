package memory

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
)

// A RecallFunc answers as [Strategy].Recall does.
type RecallFunc func(ctx context.Context, s State) (Recollection, error)

// A Previewer is a [Strategy] that can answer as if experiences had been committed. A run
// that samples a step while the steps before it are trained needs it: their experiences
// are stored in the run, but not committed yet.
type Previewer interface {
	Strategy
	// Preview returns a Recall for some scopes as it will be when the experiences of some
	// steps, oldest step first, have been committed, too. It commits nothing. What is
	// committed later does not change its answers. Experiences that are committed already
	// do not count again.
	Preview(ctx context.Context, steps [][]Experience, scopes []string) (RecallFunc, error)
}

var _ Previewer = (*Bank)(nil)

// Rehearse calls f with a transaction that is rolled back.
func Rehearse(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin a preview: %w", err)
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // the first error says more
		return err
	}
	return tx.Rollback()
}

// Preview implements [Previewer]. It writes the experiences in a transaction, reads the
// scopes that they change, and rolls it back: so tips have the ids that the commit will
// give them. The scopes stay in RAM for as long as the function that it returns.
func (b *Bank) Preview(ctx context.Context, steps [][]Experience, scopes []string) (RecallFunc, error) {
	kept, err := b.preview(ctx, steps, scopes)
	if err != nil {
		return nil, fmt.Errorf("preview memory: %w", err)
	}
	return func(ctx context.Context, s State) (Recollection, error) {
		x := kept[s.Scope]
		if x == nil {
			return Recollection{}, fmt.Errorf("recall in scope %q: it is not in the preview", s.Scope)
		}
		return b.recall(ctx, s, func() (*index, error) { return x, nil })
	}, nil
}

func (b *Bank) preview(ctx context.Context, steps [][]Experience, scopes []string) (map[string]*index, error) {
	lessons := make([][]lesson, len(steps))
	for i, step := range steps {
		for _, e := range step {
			l, err := b.lesson(ctx, e)
			if err != nil {
				return nil, fmt.Errorf("learn in scope %q: %w", e.Scope, err)
			}
			if len(l.states) > 0 {
				lessons[i] = append(lessons[i], l)
			}
		}
	}
	taught := Taught(steps, scopes)
	kept := make(map[string]*index, len(scopes))
	before := make([]*index, len(taught))
	for i, scope := range taught { // not in the transaction: whoever loads a scope waits for its end
		before[i] = b.kept(scope)
	}
	err := Rehearse(ctx, b.db, func(tx *sql.Tx) error {
		for _, l := range lessons {
			if _, err := b.write(ctx, tx, l); err != nil {
				return err
			}
		}
		for i, scope := range taught {
			x, err := before[i].refreshIn(ctx, tx, scope)
			if err != nil {
				return err
			}
			kept[scope] = x
		}
		return nil
	})
	for _, scope := range scopes {
		if err == nil && kept[scope] == nil {
			kept[scope], err = b.index(ctx, scope)
		}
	}
	return kept, err
}

// Taught returns those of the scopes that experiences belong to, once each.
func Taught(steps [][]Experience, scopes []string) (taught []string) {
	for _, step := range steps {
		for _, e := range step {
			if slices.Contains(scopes, e.Scope) && !slices.Contains(taught, e.Scope) {
				taught = append(taught, e.Scope)
			}
		}
	}
	return taught
}
