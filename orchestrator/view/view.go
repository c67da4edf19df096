// Package view reads what runs have stored, for people who look at them.
//
//   - [List] finds the runs below a folder.
//   - [Open] opens one run for reading, also while it goes on. Nothing is changed.
//   - [Run.Steps] and [Run.Episodes] list what happened, [Run.Episode] and
//     [Run.Best] return one episode with its conversation.
//   - [Run.Tips] lists tips with their authors, and what became of the episodes
//     that saw them (association.go).
//
// The package returns values and prints nothing. Their texts are as they were
// stored: those who show them must escape them (package safetext).
package view

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// Run is a run that is open for reading. It is safe for concurrent use.
type Run struct {
	Dir    string
	ledger *ledger.Ledger
}

// Open opens the run in a folder.
func Open(ctx context.Context, dir string) (*Run, error) {
	l, err := ledger.OpenReader(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &Run{Dir: dir, ledger: l}, nil
}

// Close closes the run.
func (r *Run) Close() error { return r.ledger.Close() }

// DB is the run's database, which can only be read.
func (r *Run) DB() *sql.DB { return r.ledger.DB() }

// Config is the stored configuration as TOML.
func (r *Run) Config(ctx context.Context) (string, error) { return r.ledger.Config(ctx) }

// Overview is a run in a few numbers.
type Overview struct {
	Dir     string `json:"dir"`
	Steps   int64  `json:"steps"` // committed
	Version int    `json:"version"`
	// Episodes are the finished training episodes, also those of the step that is not
	// committed. Evaluated, Failed and Cancelled count the other stored ones.
	Episodes  int `json:"episodes"`
	Evaluated int `json:"evaluated"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled,omitempty"` // episodes that a step did not wait for
	Pairs     int `json:"pairs,omitempty"`     // of a comparison of prompts, which is no run
	// Evaluation is the newest one on the split "eval", or else on any.
	Evaluation *orchestrator.Evaluation `json:"evaluation"`
	Bytes      int64                    `json:"bytes"`   // of run.db and its log
	Changed    time.Time                `json:"changed"` // when run.db or its log was last written
	// Problem says why the run cannot be read; empty: it can.
	Problem string `json:"problem,omitempty"`
}

// Overview returns the run's overview.
func (r *Run) Overview(ctx context.Context) (Overview, error) {
	out, err := r.Totals(ctx)
	if err != nil {
		return out, err
	}
	all, err := r.evaluations(ctx)
	out.Evaluation = NewestEvaluation(all)
	return out, err
}

// NewestEvaluation returns the newest one on the split "eval", or else on any; nil:
// there is none. all are in the order of steps.
func NewestEvaluation(all []orchestrator.Evaluation) (newest *orchestrator.Evaluation) {
	for i, e := range all {
		if newest == nil || e.Kind == "eval" || newest.Kind != "eval" {
			newest = &all[i]
		}
	}
	return newest
}

// Totals is Overview without its evaluation.
func (r *Run) Totals(ctx context.Context) (Overview, error) {
	out := OnDisk(r.Dir)
	last, err := r.ledger.Last(ctx)
	if err != nil {
		return out, err
	}
	out.Steps, out.Version = last.Step, last.Version
	counts, err := r.ledger.Counts(ctx)
	if err != nil {
		return out, err
	}
	for kind, n := range counts {
		switch kind {
		case "":
			out.Episodes = n
		case ledger.KindFailed:
			out.Failed = n
		case ledger.KindCancelled:
			out.Cancelled = n
		case kindPair:
			out.Pairs = n / 2 // one episode of each side
		default:
			out.Evaluated += n
		}
	}
	return out, nil
}

// evaluations returns all evaluations by step.
func (r *Run) evaluations(ctx context.Context) ([]orchestrator.Evaluation, error) {
	texts, err := r.ledger.Evaluations(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]orchestrator.Evaluation, len(texts))
	for i, text := range texts {
		if err := json.Unmarshal(text, &out[i]); err != nil {
			return nil, fmt.Errorf("an evaluation in run.db: %w", err)
		}
	}
	slices.SortStableFunc(out, func(a, b orchestrator.Evaluation) int { return int(a.Step - b.Step) })
	return out, nil
}

// databaseFiles are the files of a run whose size and time an overview shows.
var databaseFiles = []string{"run.db", "run.db-wal"}

// OnDisk returns what the files of a run say: its size and its time.
func OnDisk(dir string) Overview {
	out := Overview{Dir: dir}
	for _, name := range databaseFiles {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		out.Bytes += info.Size()
		if info.ModTime().After(out.Changed) {
			out.Changed = info.ModTime()
		}
	}
	return out
}

// depth is how far below a folder [List] looks for runs: "empo2 compare" makes
// folders of runs.
const depth = 3

// List returns the overviews of the runs in a folder and below it, by path. A run
// that cannot be read is listed with its problem.
func List(ctx context.Context, dir string) ([]Overview, error) {
	dirs, err := Find(ctx, dir)
	out := make([]Overview, len(dirs))
	for i, d := range dirs {
		out[i] = overviewOf(ctx, d)
	}
	return out, err
}

// Find returns the folders of the runs in a folder and below it, by path.
func Find(ctx context.Context, dir string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case path == dir && err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil || !d.IsDir(): // a folder that cannot be read hides no other
			return nil
		}
		if path != dir && strings.HasPrefix(d.Name(), ".") { // a fork or a backup that is not finished
			return fs.SkipDir
		}
		if info, err := os.Stat(filepath.Join(path, databaseFiles[0])); err == nil && info.Mode().IsRegular() {
			out = append(out, path)
			return fs.SkipDir
		}
		if below, err := filepath.Rel(dir, path); err == nil && levels(below) >= depth {
			return fs.SkipDir
		}
		return nil
	})
	return out, err
}

// kindPair is the kind of the episodes of empo2 ab.
const kindPair = "ab"

// comparisonName is the name of a folder that empo2 ab makes.
var comparisonName = regexp.MustCompile("^[0-9a-f]{12}$")

// IsComparison says whether a folder is one of empo2 ab. It has a ledger, but is no run.
func IsComparison(dir string) bool {
	full, err := filepath.Abs(dir)
	return err == nil && filepath.Base(filepath.Dir(full)) == "ab" && comparisonName.MatchString(filepath.Base(full))
}

// levels counts the names in a relative path.
func levels(path string) int {
	n := 0
	for ; path != "."; path = filepath.Dir(path) {
		n++
	}
	return n
}

func overviewOf(ctx context.Context, dir string) Overview {
	r, err := Open(ctx, dir)
	if err != nil {
		out := OnDisk(dir)
		out.Problem = err.Error()
		return out
	}
	defer r.Close()
	out, err := r.Overview(ctx)
	if err != nil {
		out.Problem = err.Error()
	}
	return out
}
