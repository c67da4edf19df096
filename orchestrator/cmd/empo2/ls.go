package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/view"
)

type lsCmd struct {
	Dir  string `arg:"" optional:"" help:"Folder of runs. Default: ./runs."`
	JSON bool   `help:"Print JSON, one line per run."`
}

// Help is shown by empo2 ls --help.
func (lsCmd) Help() string {
	return `Lists the runs in a folder and below it. They may be running. Success is that of the
newest evaluation. The state is running, done, interrupted, failed, killed, closed (by another
command, for example eval), or no news: the process is stopped or hangs.
The state "ab" marks a comparison of prompts, with the number of its pairs.

Examples:
  empo2 ls
  empo2 ls /data/runs
  empo2 ls --json | jq -r 'select(.data.steps > 0) | .data.dir'`
}

// listedRun is a run as ls --json prints it.
type listedRun struct {
	view.Overview
	State string `json:"state"` // one of [watchdog.Status.State], ab, or empty: unknown
}

func (cmd *lsCmd) Run(ctx context.Context, out *console) error {
	dir := cmp.Or(cmd.Dir, runsFolder())
	runs, err := view.List(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &config.Error{Place: dir, Msg: "no such folder",
			Hint: "name a folder of runs, for example empo2 ls /data/runs"}
	}
	if err != nil {
		return fmt.Errorf("list the runs in %s: %w", dir, err)
	}
	if cmd.JSON {
		for _, r := range runs {
			out.json("run", listedRun{r, runState(r.Dir)})
		}
		return nil
	}
	if len(runs) == 0 {
		out.print("no runs in %s", dir)
		return nil
	}
	out.print("%-24s %-11s %6s %9s %8s %8s %8s", "run", "state", "steps", "episodes", "success", "size", "changed")
	for _, r := range runs {
		printListed(out, dir, r)
	}
	return nil
}

func printListed(out *console, dir string, r view.Overview) {
	name, err := filepath.Rel(dir, r.Dir)
	if err != nil {
		name = r.Dir
	}
	if view.IsComparison(r.Dir) {
		out.print("%s %-11s %16s %8s %8s %8s", pad(tail(name, 24), 24), kindPair, counted(r.Pairs, "pair"), "–",
			size(r.Bytes),
			age(time.Since(r.Changed)))
		printProblem(out, r.Problem)
		return
	}
	success := "–"
	if r.Evaluation != nil {
		success = fmt.Sprintf("%.1f %%", 100*r.Evaluation.Success)
	}
	out.print("%s %-11s %6d %9d %8s %8s %8s", pad(tail(name, 24), 24), cmp.Or(runState(r.Dir), "–"), r.Steps, r.Episodes,
		success, size(r.Bytes), age(time.Since(r.Changed)))
	printProblem(out, r.Problem)
}

// printProblem says why a run cannot be read, if it cannot.
func printProblem(out *console, problem string) {
	if problem == "" {
		return
	}
	text, hint := splitHint(errors.New(problem))
	out.block("cannot be read: " + text)
	if hint != "" {
		out.block("hint: " + hint)
	}
}

// checkRunFolder refuses a comparison of prompts where a command needs a run.
func checkRunFolder(dir string) error {
	if !view.IsComparison(dir) || !isFolder(dir) {
		return nil
	}
	return &config.Error{Place: dir, Msg: "it is a comparison of prompts (empo2 ab) and no run",
		Hint: "empo2 show " + safetext.Argument(dir) +
			" --kind ab lists its episodes; the same empo2 ab prints its result again"}
}

// runState says what the status file of a run says; empty: it has none.
func runState(dir string) string {
	if view.IsComparison(dir) {
		return kindPair
	}
	s, err := readStatus(dir)
	if err != nil {
		return ""
	}
	return s.State(time.Now())
}
