package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// statusFile is the name of a run's status in its folder. The run replaces it
// every few seconds.
const statusFile = "status.json"

type statusCmd struct {
	common
	Target string `arg:"" name:"run" optional:"" placeholder:"RUN" help:"Name or folder of a run. Default: run.name."`
	JSON   bool   `help:"Print JSON."`
}

// Help is shown by empo2 status --help.
func (statusCmd) Help() string {
	return `Shows what a run does now and what it waits for: the oldest request, episode, call of
the trainer and start of a child process. The run may be running.

Examples:
  empo2 status
  empo2 status runs/try2
  kill -USR1 PID           the running program prints the same with the stacks of its goroutines`
}

func (cmd *statusCmd) Run(out *console) error {
	dir, err := cmd.dir()
	if err != nil {
		return err
	}
	if err := checkRunFolder(dir); err != nil {
		return err
	}
	s, err := readStatus(dir)
	if err != nil {
		return err
	}
	if cmd.JSON {
		out.json("status", s)
		return nil
	}
	out.print("run %s", dir)
	out.print("%s", s.state(time.Now()))
	for _, line := range s.Lines() {
		for _, part := range wrapParts("", strings.Split(line, "  ")) {
			out.print("%s", part)
		}
	}
	return nil
}

// dir returns the folder of the run that the user named.
func (cmd *statusCmd) dir() (string, error) {
	if cmd.Target != "" && (fileExists(filepath.Join(cmd.Target, statusFile)) || checkRunFolder(cmd.Target) != nil) {
		return cmd.Target, nil
	}
	c, err := cmd.load()
	switch {
	case err != nil && cmd.Target == "":
		return "", err
	case err != nil:
		c = config.Default()
	}
	if cmd.Target != "" {
		return filepath.Join(c.Run.Dir, cmd.Target), nil
	}
	return filepath.Join(c.Run.Dir, c.Run.Name), nil
}

// runStatus is a run's status with its age.
type runStatus struct{ watchdog.Status }

func readStatus(dir string) (runStatus, error) {
	path := filepath.Join(dir, statusFile)
	text, err := config.ReadText(path, path)
	if _, failed := os.Stat(path); errors.Is(failed, fs.ErrNotExist) {
		return runStatus{}, &config.Error{Place: dir, Msg: "no such run",
			Hint: "name the folder of a run, for example empo2 status runs/NAME"}
	}
	if err != nil {
		return runStatus{}, err
	}
	var s runStatus
	if s.Status, err = watchdog.ParseStatus([]byte(text)); err != nil {
		return s, &config.Error{Place: path, Msg: "it cannot be read: " + safetext.JSONError(err).Error(),
			Hint: "empo2 run writes it again every few seconds; empo2 check verifies the run"}
	}
	return s, nil
}

// state says whether the run is running, as far as its file shows it.
func (s runStatus) state(now time.Time) string {
	age, state := now.Sub(s.Updated).Round(time.Second), s.State(now)
	switch {
	case s.Ended == watchdog.EndedDone:
		return fmt.Sprintf("done %s ago", age)
	case s.Ended != "":
		return fmt.Sprintf("%s %s ago: %s", state, age, s.Ended)
	case state == watchdog.StateKilled:
		return fmt.Sprintf("killed: process %d is gone. Its last news, %s ago:", s.PID, age)
	case state == watchdog.StateSilent:
		return fmt.Sprintf("no news: process %d is stopped or hangs. Its last news, %s ago:", s.PID, age)
	}
	return fmt.Sprintf("running for %s as process %d", now.Sub(s.Started).Round(time.Second), s.PID)
}

// A watcher reports what a run waits for, in the log and in its status file.
type watcher struct {
	watch   *watchdog.Watch
	remove  func()
	path    string
	started time.Time
	stop    context.CancelFunc
	done    sync.WaitGroup
	log     zerolog.Logger
	since   time.Time // of the present phase

	mu sync.Mutex // of the file
}

// startWatcher begins to watch a run in a folder. It calls stall with each stall
// of the whole run: nothing has finished for run.stall_minutes.
func startWatcher(
	ctx context.Context, c config.Config, dir string, log zerolog.Logger, stall func(text string),
) *watcher {
	w := &watcher{path: filepath.Join(dir, statusFile), started: time.Now(), log: log}
	w.watch, w.remove = watchdog.From(ctx).Child(c.Run.Name)
	ctx, w.stop = context.WithCancel(context.WithoutCancel(ctx))
	w.write("")
	w.done.Go(func() {
		tick := time.NewTicker(watchdog.Interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			w.write("")
			if text := w.watch.Idle(seconds(60 * c.Run.StallMinutes)); text != "" {
				log.Warn().Msg("the run stalls: " + text)
				stall(text)
			}
		}
	})
	return w
}

// Phase implements [orchestrator.Observer]. A new phase is written at once.
func (w *watcher) Phase(p watchdog.Phase) {
	if !p.Since.Equal(w.since) {
		w.since = p.Since
		w.write("")
	}
}

// Step implements [orchestrator.Observer].
func (w *watcher) Step(m orchestrator.StepMetrics) {
	w.watch.Last(strings.Join(stepText(m, false).parts, "  "))
}

// Evaluation implements [orchestrator.Observer].
func (w *watcher) Evaluation(orchestrator.Evaluation) {}

// Prompt implements [orchestrator.Observer].
func (w *watcher) Prompt(orchestrator.PromptReload) {}

var _ orchestrator.Observer = (*watcher)(nil)

// close writes how the run ended.
func (w *watcher) close(ended string) {
	w.remove()
	w.stop()
	w.done.Wait()
	w.write(ended)
}

// write replaces the status file. A failure is only logged: a full disk ends the
// run by itself.
func (w *watcher) write(ended string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.watch.Status()
	s.PID, s.Started, s.Ended = os.Getpid(), w.started, ended
	if ended != "" {
		s.Phase = nil
	}
	text, err := json.Marshal(s)
	if err == nil {
		if err = os.WriteFile(w.path+".new", append(text, '\n'), 0o600); err == nil {
			err = os.Rename(w.path+".new", w.path)
		}
	}
	if err != nil {
		w.log.Debug().Err(err).Msg("write the status file")
	}
}
