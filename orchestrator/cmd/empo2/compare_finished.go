package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
)

// findFinished finds the jobs that are finished. Nothing is started for them.
func (r *comparer) findFinished(ctx context.Context, jobs []job) error {
	r.finished = map[string]bool{}
	for _, j := range jobs {
		if !fileExists(filepath.Join(r.Out, j.name(), "run.db")) ||
			j.arm.after != "" && !r.finished[j.before().name()] {
			continue
		}
		done, err := r.isFinished(ctx, j)
		if err != nil {
			return fmt.Errorf("%s: %w", j.name(), err)
		}
		r.finished[j.name()] = done
	}
	return nil
}

func (r *comparer) isFinished(ctx context.Context, j job) (done bool, err error) {
	c, err := r.budgeted(ctx, j)
	if err != nil {
		return false, err
	}
	l, err := openLedger(ctx, c)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s, _ := readStatus(l.Dir) // without one, the ledger alone decides
	return orchestrator.Finished(ctx, l, c, s.Ended == endedDone)
}

// before is the job whose training seconds are the budget of j.
func (j job) before() job { return job{arm{name: j.arm.after}, j.seed, j.house} }

// budgeted returns the configuration of a job with its budget.
func (r *comparer) budgeted(ctx context.Context, j job) (config.Config, error) {
	budget := 0.0
	if j.arm.after != "" {
		other, err := r.summary(ctx, j.before())
		if err != nil {
			return config.Config{}, err
		}
		budget = other.Seconds
	}
	return r.config(j, budget, unnoted)
}

// tellFinished records the configuration of a finished job and shows its metrics to
// other programs.
func (r *comparer) tellFinished(ctx context.Context, j job, c config.Config) error {
	l, err := openLedger(ctx, c)
	if err != nil {
		return err
	}
	opened := &run{ledger: l, loop: &orchestrator.Loop{Log: r.console.logger(r.Verbose)}}
	opened.closes = append(opened.closes, l.Close)
	if err = saveConfig(ctx, l, c); err == nil {
		_, err = r.observers(ctx, opened, j, c)
	}
	return errors.Join(err, opened.Close())
}

// jobs returns the jobs of all seeds: those with a budget of steps, and those with the
// seconds of another arm, which come second.
func (r *comparer) jobs() (first, second []job) {
	for _, seed := range r.seeds {
		for _, a := range r.arms {
			if j := (job{a, seed, r.houses}); a.after == "" {
				first = append(first, j)
			} else {
				second = append(second, j)
			}
		}
	}
	return first, second
}

// allFinished reports whether all jobs of an arm are finished.
func (r *comparer) allFinished(a arm) bool {
	for _, seed := range r.seeds {
		if !r.finished[job{a, seed, r.houses}.name()] {
			return false
		}
	}
	return true
}

// summary reads a finished job from its ledger.
func (r *comparer) summary(ctx context.Context, j job) (orchestrator.Summary, error) {
	return readSummary(ctx, filepath.Join(r.Out, j.name()))
}
