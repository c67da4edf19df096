package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/telemetry"
)

type metricsCmd struct {
	Runs    []string `arg:"" name:"run" help:"The runs: their folders, or their names in run.dir."`
	Format  string   `required:"" enum:"tensorboard,trackio,csv,jsonl" help:"One of ${enum}."`
	Names   string   `default:"trl" enum:"trl,verl,prime-rl,empo2" help:"Whose names the metrics have: ${enum}."`
	Out     string   `short:"o" placeholder:"PATH" help:"A file for csv and jsonl, else a folder. See above."`
	Force   bool     `help:"Replace the file of csv or jsonl if it exists."`
	Project string   `default:"empo2" placeholder:"NAME" help:"Project of trackio."`
}

// Help is shown by empo2 export --help.
func (metricsCmd) Help() string {
	return `Writes the metrics of every step and evaluation. The runs may be running, and are not
changed. run.tensorboard = true writes event files while a run goes on.

  tensorboard  event files in PATH/RUN; default: ./tensorboard/RUN
  trackio      a project of trackio in the folder PATH; default: ./trackio. Nothing is sent.
               A run that the project has already is replaced.
  csv, jsonl   one row per step in the file PATH; default: standard output

--names trl calls a metric as TRL does, and what TRL has no name for train/NAME. So the
curves of several programs share a panel. The README has the table of names.

Examples:
  empo2 export vault --format tensorboard && tensorboard --logdir tensorboard
  empo2 export grpo empo2 --format trackio -o t && TRACKIO_DIR=t trackio show --project empo2
  empo2 export vault --format csv --names empo2 -o vault.csv`
}

func (cmd *metricsCmd) Run(ctx context.Context, out *console) error {
	if cmd.Project == "" {
		return fmt.Errorf("%w: --project is empty\n  hint: for example --project empo2", errUsage)
	}
	var runs []telemetry.Run
	var folders []string
	for _, name := range cmd.Runs {
		dir, err := runArgument{name}.dir()
		if err != nil {
			return err
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		if slices.Contains(folders, dir) {
			return fmt.Errorf("%w: run %s is named twice\n  hint: name each run once", errUsage, name)
		}
		r, err := cmd.read(ctx, dir)
		if err != nil {
			return err
		}
		runs, folders = append(runs, r), append(folders, dir)
	}
	distinguish(runs, folders)
	switch cmd.Format {
	case "tensorboard":
		return cmd.tensorBoard(runs, out)
	case "trackio":
		dir := cmp.Or(cmd.Out, "trackio")
		if err := telemetry.Trackio(ctx, dir, cmd.Project, runs); err != nil {
			return err
		}
		out.note("%s: TRACKIO_DIR=%s trackio show --project %s", filepath.Join(dir, telemetry.TrackioFile(cmd.Project)), dir,
			cmd.Project)
		return nil
	}
	write := telemetry.CSV
	if cmd.Format == "jsonl" {
		write = telemetry.JSONLines
	}
	return cmd.file(write, runs, out)
}

// read reads the run in a folder.
func (cmd *metricsCmd) read(ctx context.Context, dir string) (telemetry.Run, error) {
	if err := checkRunFolder(dir); err != nil {
		return telemetry.Run{}, err
	}
	l, err := ledger.OpenReader(ctx, dir)
	if err != nil {
		return telemetry.Run{}, err
	}
	r, err := telemetry.Read(ctx, l, filepath.Base(dir), cmd.Names)
	return r, errors.Join(err, l.Close())
}

// distinguish names runs by the ends of their paths, with as many folders as tell them apart.
func distinguish(runs []telemetry.Run, folders []string) {
	for n := 1; n < 20; n++ {
		seen := map[string]bool{}
		for i, folder := range folders {
			parts := strings.Split(strings.Trim(filepath.ToSlash(folder), "/"), "/")
			runs[i].Name = strings.Join(parts[max(0, len(parts)-n):], "/")
			seen[runs[i].Name] = true
		}
		if len(seen) == len(runs) {
			return
		}
	}
}

func (cmd *metricsCmd) tensorBoard(runs []telemetry.Run, out *console) error {
	for _, r := range runs {
		dir := filepath.Join(cmp.Or(cmd.Out, tensorBoardFolder), filepath.FromSlash(r.Name))
		board, err := telemetry.OpenTensorBoard(dir, cmd.Names, r, zerolog.Nop())
		if err != nil {
			return err
		}
		if err := board.Close(); err != nil {
			return err
		}
		out.note("%s: %d points", dir, len(r.Points))
	}
	return nil
}

func (cmd *metricsCmd) file(write func(io.Writer, []telemetry.Run) error, runs []telemetry.Run, out *console) error {
	if cmd.Out != "" {
		if err := checkOut("-o", cmd.Out, cmd.Force); err != nil {
			return err
		}
		return writeFile(cmd.Out, func(w io.Writer) error { return write(w, runs) })
	}
	var text strings.Builder
	if err := write(&text, runs); err != nil {
		return err
	}
	out.print("%s", strings.TrimSuffix(text.String(), "\n"))
	return nil
}
