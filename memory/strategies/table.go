package strategies

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/empo2/empo2/memory"
)

// checkOwner compares the strategy and the embedder with those that wrote the cases
// in db. An empty memory has neither.
func checkOwner(ctx context.Context, db memory.Database, strategy, embedder string) error {
	if err := memory.CheckStrategy(ctx, db, strategy); err != nil {
		return err
	}
	var stored string
	err := db.QueryRowContext(ctx, `SELECT value FROM memory_meta WHERE key = 'embedder'`).Scan(&stored)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("read the embedder's name: %w", err)
	case stored != embedder:
		return fmt.Errorf("the memory was written with embedder %q, the configuration names %q\n"+
			"  hint: set memory.embedder back, or begin a new run (--set run.name=…)", stored, embedder)
	}
	return nil
}

// claim writes the strategy's and the embedder's name into an empty memory.
func claim(ctx context.Context, tx *sql.Tx, strategy, embedder string) error {
	if err := checkOwner(ctx, tx, strategy, embedder); err != nil {
		return err
	}
	for _, pair := range [][2]string{{"strategy", strategy}, {"embedder", embedder}} {
		_, err := tx.ExecContext(ctx, `INSERT INTO memory_meta (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING`,
			pair[0], pair[1])
		if err != nil {
			return fmt.Errorf("write the %s's name: %w", pair[0], err)
		}
	}
	return nil
}

// load reads a scope.
func load[T any](ctx context.Context, db memory.Database, name string) (*scope[T], error) {
	m := &scope[T]{name: name}
	err := memory.Cases(ctx, db, name, func(c memory.Case) error {
		k := &kase[T]{id: c.ID, vectors: c.Vectors}
		if err := json.Unmarshal(c.Keys, &k.keys); err != nil {
			return fmt.Errorf("the keys of case %d: %w", c.ID, err)
		}
		if err := json.Unmarshal(c.Data, &k.data); err != nil {
			return fmt.Errorf("case %d: %w", c.ID, err)
		}
		m.cases = append(m.cases, k)
		return nil
	})
	return m, err
}

// save writes the changes of a scope.
func save[T any](ctx context.Context, tx *sql.Tx, m *scope[T]) error {
	for _, id := range m.removed {
		if err := memory.RemoveCase(ctx, tx, id); err != nil {
			return err
		}
	}
	for _, k := range m.cases {
		if !k.changed {
			continue
		}
		c := memory.Case{ID: k.id, Scope: m.name, Vectors: k.vectors}
		var err error
		if c.Keys, err = json.Marshal(k.keys); err != nil {
			return err
		}
		if c.Data, err = json.Marshal(k.data); err != nil {
			return err
		}
		if err := memory.WriteCase(ctx, tx, c); err != nil {
			return err
		}
	}
	return nil
}
