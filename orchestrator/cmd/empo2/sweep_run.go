package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/report"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// sweeper trains the runs of a sweep. A run that fails is recorded, and the others go on.
type sweeper struct {
	comparer
	file    config.Sweep
	command string // that continues the sweep
	retry   bool

	mu       sync.Mutex
	done     map[string]bool    // by the name of a run
	failures map[string]failure // by the name of a run
	begun    time.Time
	trained  int                     // runs that ended since then
	curves   map[string]report.Curve // of runs that are done
	ending   sync.Mutex              // one run at a time is recorded and reported
}

// failure is why a run failed.
type failure struct {
	Error string    `json:"error"`
	Hint  string    `json:"hint,omitempty"`
	At    time.Time `json:"at"`
}

// The states of a run.
const (
	runDone    = "done"
	runFailed  = "failed"
	runBegun   = "begun"
	runWaiting = "waiting"
)

func (s *sweeper) all() []job {
	jobs, _ := s.jobs()
	return jobs
}

func (s *sweeper) state(j job) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch _, failed := s.failures[j.name()]; {
	case s.done[j.name()]:
		return runDone
	case failed:
		return runFailed
	case fileExists(filepath.Join(s.Out, j.name(), "run.db")):
		return runBegun
	}
	return runWaiting
}

// look finds out what is done and what failed before. With --retry nothing has failed.
func (s *sweeper) look(ctx context.Context) error {
	s.failures, s.curves = map[string]failure{}, map[string]report.Curve{}
	text, err := os.ReadFile(s.failuresFile())
	if err == nil {
		err = json.Unmarshal(text, &s.failures)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w\n  hint: remove the file; failed runs are then tried again", s.failuresFile(), err)
	}
	if s.retry {
		clear(s.failures)
	}
	s.done = map[string]bool{}
	for _, j := range s.all() {
		if _, failed := s.failures[j.name()]; failed || !fileExists(filepath.Join(s.Out, j.name(), "run.db")) {
			continue
		}
		if s.done[j.name()], err = s.isFinished(ctx, j); err == nil {
			err = s.checkStored(ctx, j)
		}
		var other *config.Error
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.As(err, &other) {
			return fmt.Errorf("%s: %w", j.name(), err)
		}
		if err != nil { // it is damaged or in use: training it fails, and that is a result
			s.done[j.name()] = false
		}
	}
	return nil
}

// checkStored returns an error if a run was begun with other keys: it would not be what the sweep file says. Unlike a
// run that continues, it may not even have another loss or optimizer.
func (s *sweeper) checkStored(ctx context.Context, j job) (err error) {
	c, err := s.config(j, 0, unnoted)
	if err != nil {
		return err
	}
	l, err := ledger.Open(ctx, filepath.Join(s.Out, j.name()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	text, err := l.Config(ctx)
	if begun, failed := l.Begun(ctx); failed != nil || !begun || text == "" {
		return errors.Join(err, failed)
	}
	err = refuseChanges(text, l.Dir, c, func(key string) bool {
		return config.Matches(key, []string{"loss.", "optimizer."})
	})
	var fault *config.Error
	if errors.As(err, &fault) {
		fault.Hint = "choose another folder (--out), remove this run, or restore the keys"
	}
	return err
}

func (s *sweeper) failuresFile() string { return filepath.Join(s.Out, "sweep-failures.json") }

// record keeps why a run failed; nil: it did not.
func (s *sweeper) record(j job, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trained++
	if err == nil {
		s.done[j.name()] = true
		delete(s.failures, j.name())
	} else {
		msg, hint := splitHint(err)
		s.failures[j.name()] = failure{msg, hint, time.Now().UTC().Truncate(time.Second)}
	}
	return writeFile(s.failuresFile(), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(s.failures)
	})
}

// run trains what is left and writes the report.
func (s *sweeper) run(ctx context.Context) error {
	var left []job
	states := map[string]int{}
	for _, j := range s.all() {
		state := s.state(j)
		if states[state]++; state == runBegun || state == runWaiting {
			left = append(left, j)
		}
	}
	if err := s.prepare(ctx, left); err != nil {
		return err
	}
	s.console.countRuns(len(s.all())-len(left), len(s.all()))
	s.console.note("sweep of %s in %s: %s, %d done, %d failed before, %d to train, %d at a time",
		counted(len(s.arms), "setting"), s.Out, counted(len(s.all()), "run"), states[runDone], states[runFailed],
		len(left), min(s.Jobs, max(1, len(left))))
	err := s.trainAll(ctx, left)
	if s.prometheus != nil {
		err = errors.Join(err, s.prometheus.Close())
	}
	if err != nil {
		return err
	}
	if err := s.report(ctx, true); err != nil {
		return err
	}
	if n := len(s.failures); n > 0 {
		return fmt.Errorf("%d of %s failed; the report has the others\n  hint: %s --retry tries them again", n,
			counted(len(s.all()), "run"), s.command)
	}
	return nil
}

// prepare sets up what the runs need, once for all.
func (s *sweeper) prepare(ctx context.Context, left []job) error {
	if len(left) == 0 {
		return nil
	}
	log := s.console.logger(s.Verbose)
	needed := map[string]bool{}
	for _, j := range left {
		needed[j.arm.name] = true
	}
	if err := s.setUp(ctx, log, func(a arm) bool { return needed[a.name] }); err != nil {
		return err
	}
	return s.servePrometheus(log)
}

// trainAll trains runs, several at a time. Only a signal ends it early.
func (s *sweeper) trainAll(ctx context.Context, left []job) error {
	s.begun = time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.Jobs)
	for _, j := range left {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			err := s.one(ctx, j)
			if err != nil && isInterrupt(ctx, err) {
				return err
			}
			return s.ended(ctx, j, err, len(left))
		})
	}
	return group.Wait()
}

// ended records how a run ended, and rewrites the report.
func (s *sweeper) ended(ctx context.Context, j job, failed error, left int) error {
	s.ending.Lock()
	defer s.ending.Unlock()
	if err := s.record(j, failed); err != nil {
		return err
	}
	s.mu.Lock()
	trained, all, why := s.trained, len(s.all()), s.failures[j.name()]
	s.mu.Unlock()
	s.console.countRuns(all-left+trained, all)
	text := "done"
	if failed != nil {
		msg, _ := splitHint(failed)
		text = "FAILED: " + msg
	} else if summary, err := s.summary(ctx, j); err == nil && len(summary.Evaluations) > 0 {
		last := curve(j, summary).Last()
		text = fmt.Sprintf("success %.1f %%  score %.2f  %s", last.Success, last.Score, secondsText(summary.Seconds))
	}
	parts := []string{fmt.Sprintf("%d/%d", all-left+trained, all), j.name(), text}
	if n := left - trained; n > 0 {
		each := time.Since(s.begun) / time.Duration(trained)
		parts = append(parts, watchdog.Span(each*time.Duration(n))+" left")
	}
	if s.JSON {
		s.console.json("run", map[string]any{"run": j.name(), "arm": j.arm.shown(), "seed": j.seed, "state": s.state(j),
			"error": why.Error, "hint": why.Hint, "done": all - left + trained, "runs": all})
	} else {
		s.console.print("%s", strings.Join(wrapParts("", parts), "\n"))
	}
	return s.report(ctx, false)
}
