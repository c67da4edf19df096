package orchestrator

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// OpenMemory opens the memory of a run in another, empty database.
type OpenMemory func(ctx context.Context, db *sql.DB, e memory.Embedder) (memory.Strategy, error)

// Replayed says how [Check] replays the episodes. The zero value replays nothing.
type Replayed struct {
	Open OpenMemory // nil: the memory is not replayed
	// Embedder is given if what the memory learns depends on vectors. Nil: it does not,
	// and the replay does without them.
	Embedder memory.Embedder
}

// Check verifies everything in a run's folder: what [ledger.Verify] checks, the
// rows of the memory, and that the memory equals a replay of the episodes. It
// changes nothing.
func Check(ctx context.Context, dir string, config Replayed) (*ledger.Report, error) {
	report, err := ledger.Verify(ctx, dir)
	if err != nil {
		return nil, err
	}
	if report.Damaged() { // the replay would report the same again
		return report, nil
	}
	err = ledger.View(ctx, dir, func(run *ledger.Ledger) error { return checkMemory(ctx, run, config) })
	if err != nil && (ctx.Err() != nil || errors.Is(err, ledger.ErrInUse)) {
		return nil, err
	}
	if err != nil {
		report.Add("memory", err) // --from-step rebuilds it
	}
	return report, nil
}

// checkMemory returns an error if the memory is damaged or is not what the
// episodes and imports of the run have taught it.
func checkMemory(ctx context.Context, run *ledger.Ledger, config Replayed) error {
	exists, err := memory.Exists(ctx, run.DB())
	if err != nil || !exists {
		return err
	}
	if err := memory.Verify(ctx, run.DB()); err != nil {
		return err
	}
	name, err := memory.EmbedderName(ctx, run.DB())
	if err != nil {
		return err
	}
	_, all, err := run.Imports(ctx)
	if err != nil || !all { // the imports of an earlier version of empo2 are unknown
		return err
	}
	if config.Open == nil {
		return nil
	}
	if config.Embedder == nil {
		config.Embedder = noVectors(name)
	}
	return withScratchMemory(ctx, config, func(m memory.Strategy, db *sql.DB) error {
		if err := Replay(ctx, run, m, db); err != nil {
			return fmt.Errorf("replay the episodes: %w", err)
		}
		difference, err := memory.Difference(ctx, run.DB(), db)
		if err == nil && difference != "" {
			err = fmt.Errorf("it differs from a replay of the episodes: %s", difference)
		}
		return err
	})
}

// withScratchMemory opens an empty memory in RAM.
func withScratchMemory(ctx context.Context, config Replayed, f func(memory.Strategy, *sql.DB) error) error {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1) // every connection has a database of its own
	err = memory.Migrate(ctx, db)
	if err == nil {
		var m memory.Strategy
		if m, err = config.Open(ctx, db, config.Embedder); err == nil {
			err = f(m, db)
		}
	}
	return errors.Join(err, db.Close())
}

// noVectors is an embedder for a bank whose vectors are not looked at. Its value
// is the name of the bank's own embedder.
type noVectors string

// Name implements [memory.Embedder].
func (n noVectors) Name() string { return string(n) }

// Embed returns zero vectors.
func (n noVectors) Embed(_ context.Context, texts ...string) ([][]float32, error) {
	out := make([][]float32, len(texts))
	for i := range out {
		out[i] = []float32{0}
	}
	return out, nil
}
