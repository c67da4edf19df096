package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/view"
)

// runArgument is the argument of commands that are about the folder of a run.
type runArgument struct {
	Run string `arg:"" help:"The run: its folder, or its name in run.dir."`
}

// dir returns the run's folder.
func (a runArgument) dir() (string, error) {
	for _, dir := range []string{a.Run, filepath.Join(runsFolder(), a.Run)} {
		if fileExists(filepath.Join(dir, "run.db")) || fileExists(filepath.Join(dir, "checkpoints")) {
			return dir, nil
		}
	}
	return "", &config.Error{Place: a.Run, Msg: "no such run", Hint: "name the folder of a run, for example runs/vault"}
}

// open opens the run for reading, also while it is running.
func (a runArgument) open(ctx context.Context) (string, *view.Run, error) {
	dir, err := a.dir()
	if err != nil {
		return "", nil, err
	}
	r, err := view.Open(ctx, dir)
	return dir, r, err
}

// runsFolder returns run.dir as ./config.toml and the defaults say.
func runsFolder() string {
	c, err := common{}.loadBare()
	if err != nil {
		c = config.Default()
	}
	return c.Run.Dir
}

type checkCmd struct {
	runArgument
	JSON bool `help:"Print JSON."`
}

// Help is shown by empo2 check --help.
func (checkCmd) Help() string {
	return `Verifies everything in the folder of a run and changes nothing: the pages of the
database, a checksum of every row, missing rows, the order of steps and versions, the
files of adapters and checkpoints by SHA-256, and that the memory equals a replay of
the episodes. The exit code is 1 if anything is damaged, and 3 if the run is running.
A start verifies a part of it.

Examples:
  empo2 check vault
  empo2 check /data/runs/try1 --json`
}

func (cmd *checkCmd) Run(ctx context.Context, out *console) error {
	dir, err := cmd.dir()
	if err != nil {
		return err
	}
	report, err := checkRun(ctx, dir)
	if errors.Is(err, ledger.ErrInUse) {
		return &setupError{fmt.Errorf("%s: %w\n  hint: check it when the run has ended, or a copy that empo2 backup makes",
			dir, ledger.ErrInUse)}
	}
	if err != nil {
		return err
	}
	if cmd.JSON {
		out.json("check", report)
	} else {
		printReport(out, report)
	}
	if report.Damaged() {
		return damageError(errors.New(dir+" is damaged"), report, continueCommand(dir))
	}
	return nil
}

// continueCommand is the command that continues a run as its own configuration says.
func continueCommand(dir string) string {
	words := []string{"empo2", "run"}
	if file := filepath.Join(dir, "config.toml"); fileExists(file) {
		words = append(words, "-c", safetext.Argument(file))
	}
	return strings.Join(append(words, "--set", safetext.Argument("run.dir="+filepath.Dir(dir)),
		"--set", safetext.Argument("run.name="+filepath.Base(dir))), " ")
}

// checkRun verifies a run with the memory's configuration that is stored in it.
func checkRun(ctx context.Context, dir string) (*ledger.Report, error) {
	var m orchestrator.Replayed
	err := ledger.View(ctx, dir, func(l *ledger.Ledger) error {
		text, err := l.Config(ctx)
		if err != nil || text == "" {
			return err
		}
		c, err := parseStored(text, dir)
		if err == nil {
			m = replayed(c)
		}
		return err
	})
	var fault *config.Error
	if errors.Is(err, ledger.ErrInUse) || errors.As(err, &fault) {
		return nil, err
	}
	return orchestrator.Check(ctx, dir, m) // other faults of the database are in its report
}

// replayed says how the memory of a run is replayed. That of another process cannot be,
// nor one that learns from the vectors of an embedding server.
func replayed(c config.Config) (r orchestrator.Replayed) {
	bank := c.Memory.Strategy == memory.TipsStrategy
	if !c.HasMemory() || c.Memory.Strategy == "http" || c.Embeds() && !bank && c.Memory.Embedder != "ngram" {
		return r
	}
	if !bank {
		r.Embedder = embed.NGram{}
	}
	r.Open = func(ctx context.Context, db *sql.DB, e memory.Embedder) (memory.Strategy, error) {
		if !c.Embeds() {
			e = nil
		}
		return memories[c.Memory.Strategy](ctx, memoryRequest{db: db, config: c, embedder: e})
	}
	return r
}

func printReport(out *console, r *ledger.Report) {
	out.print("%s: %s, version %d; %s and %s are right", r.Dir, counted(int(r.Steps), "step"), r.Version,
		counted(r.Rows, "row"), counted(r.Files, "file"))
	for _, p := range r.Problems {
		kind := "DAMAGED"
		if p.Harmless {
			kind = "harmless"
		}
		out.print("%s  %s: %s", kind, p.Place, p.Detail)
	}
	if len(r.Problems) == 0 {
		out.print("nothing is damaged")
	}
}

// damageError adds to err the newest good state of a run, what going back to it
// costs, and the command for it. command is how the user starts the run.
func damageError(err error, r *ledger.Report, command string) error {
	text, _, _ := strings.Cut(err.Error(), "\n  hint: ")
	if r.Unreadable {
		return &damaged{fmt.Errorf("%s\n  no step can be read from its run.db\n"+
			"  hint: restore run.db from a backup, or start a new run with another name (--set run.name=…)", text)}
	}
	if r.BaseDamaged {
		return &damaged{fmt.Errorf("%s\n  its warm-started model is damaged: no step can go on without it\n"+
			"  hint: restore %s from a backup, or remove it and repeat empo2 warmstart with the same data and settings",
			text, filepath.Join(r.Dir, "base"))}
	}
	n := r.Newest()
	cost := "nothing that was committed is lost"
	switch r.Steps - n {
	case 0:
	case 1:
		cost = fmt.Sprintf("step %d is set aside", r.Steps)
	default:
		cost = fmt.Sprintf("steps %d to %d are set aside", n+1, r.Steps)
	}
	return &damaged{fmt.Errorf("%s\n  the newest good state is step %d: %s\n  hint: %s --from-step %d",
		text, n, cost, command, n)}
}

// damaged is an error that already says how to go on.
type damaged struct{ error }

// explainDamage checks the whole run if err says that it is damaged, and adds how
// to go on.
func explainDamage(ctx context.Context, err error, dir, command string) error {
	var done *damaged
	if !errors.Is(err, ledger.ErrDamaged) && !errors.Is(err, memory.ErrDamaged) || errors.As(err, &done) {
		return err
	}
	report, checkErr := checkRun(ctx, dir)
	if checkErr != nil || !fileExists(filepath.Join(dir, "run.db")) {
		return err
	}
	return damageError(err, report, command)
}

// command is the command line of empo2 run with the user's flags.
func (c common) command() string {
	words := []string{"empo2", "run"}
	add := func(flag, value string) { words = append(words, flag, safetext.Argument(value)) }
	if c.Profile != "" {
		add("--profile", c.Profile)
	}
	for _, f := range c.ConfigFile {
		add("-c", f)
	}
	for _, s := range c.Set {
		add("--set", s)
	}
	return strings.Join(words, " ")
}
