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
		digits, ok := strings.CutPrefix(e.Name(), prefix)
		if n, err := strconv.Atoi(digits); ok && err == nil {
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

// Prune makes every commit durable on disk. Then it removes old adapters and
// checkpoints. The newest ones stay; keep is their number.
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
