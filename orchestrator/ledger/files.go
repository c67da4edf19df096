package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// versions lists the numbers of the entries of a folder named prefix+digits.
func versions(dir, prefix string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		if n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), prefix)); err == nil && strings.HasPrefix(e.Name(), prefix) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// folders are the folders that the trainer writes, with the prefix of their
// entries.
func (l *Ledger) folders() map[string]string {
	return map[string]string{filepath.Join(l.Dir, "adapters"): "v", filepath.Join(l.Dir, "checkpoints"): ""}
}

// DiscardAfter removes adapters and checkpoints that are newer than a version.
// They belong to steps that were never committed.
func (l *Ledger) DiscardAfter(version int) error {
	return l.remove(func(all []int) []int {
		return slices.DeleteFunc(all, func(v int) bool { return v <= version })
	})
}

// Prune makes every commit durable on disk. Then it removes all adapters and
// checkpoints except the newest, of which it keeps so many.
func (l *Ledger) Prune(ctx context.Context, keep int) error {
	if _, err := l.db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		return fmt.Errorf("checkpoint run.db: %w", explain(err))
	}
	return l.remove(func(all []int) []int { return all[:max(0, len(all)-keep)] })
}

func (l *Ledger) remove(which func([]int) []int) error {
	var errs []error
	for dir, prefix := range l.folders() {
		all, err := versions(dir, prefix)
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, v := range which(all) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("%s%06d", prefix, v))))
		}
	}
	return errors.Join(errs...)
}

// Evaluations returns all recorded evaluations, by step.
func (l *Ledger) Evaluations(ctx context.Context) ([][]byte, error) {
	rows, err := l.db.QueryContext(ctx, "SELECT result FROM evaluations ORDER BY step, kind")
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out [][]byte
	for rows.Next() {
		var text []byte
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, explain(rows.Err())
}

// DropEvaluation removes an evaluation, so that it can be repeated with more
// episodes.
func (l *Ledger) DropEvaluation(ctx context.Context, step int64, kind string) error {
	_, err := l.db.ExecContext(ctx, "DELETE FROM evaluations WHERE step = ? AND kind = ?", step, kind)
	return explain(err)
}
