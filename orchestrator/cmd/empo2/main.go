// Command empo2 trains LLM agents with memory-augmented reinforcement
// learning (EMPO², arXiv 2602.23008) on the machine it runs on.
//
// Each command has a file: init.go, plan.go, run.go, eval.go, demos.go,
// warmstart.go, ls.go, show.go, tips.go, view.go, compare.go, sweep.go, export.go,
// doctor.go, serve_trainer.go, check.go, backup.go, memory.go, prompt.go, try.go, ab.go, env.go,
// config.go, version.go. This is the only package that imports implementations:
//   - backends.go opens inference servers, by their name in config.toml;
//   - environments.go opens environments, by their name in config.toml;
//   - bank.go opens the memory of tips and its embedder;
//   - trainer.go describes the trainer process;
//   - telemetry.go shows a run to TensorBoard and Prometheus;
//   - status.go reports what a run waits for; signals.go says how signals end it;
//   - setup.go finds or installs what these need;
//   - openrun.go starts all of them and connects them to the training loop.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// The exit codes. The help text explains them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitSetup       = 3
	exitInterrupted = 130
	exitPipe        = 141 // the program that read the results has ended
)

const description = `Train LLM agents with memory-augmented reinforcement learning (EMPO²).

The demonstration, without a model of your own:
  empo2 run --profile demo               train the embedded model
  empo2 compare --profile demo           train it with EMPO² and with GRPO, and draw the curves

Your own model:
  empo2 init --model DIR                 write ./config.toml for the model and this machine
  empo2 doctor                           check model, server and trainer
  empo2 try                              show replies to a task, with their rewards
  empo2 plan                             predict memory, time and disk of the run
  empo2 run                              train as ./config.toml says, or continue
  empo2 eval --split test                evaluate the newest version without tips
  empo2 show RUN                         the steps of a run, its episodes and their conversations
  empo2 view                             a page of all runs, also while they go on
  empo2 run --set algorithm.name=grpo --set run.name=grpo
                                         the same without memory
  empo2 config --profile cpu             every key with its value in a profile

The configuration has four layers, and later ones win: the defaults, the profile, the files given with -c
(or else ./config.toml), and --set.

Exit codes: 0 done · 1 the run failed · 2 wrong usage or configuration · 3 set-up failed · 130 interrupted
(the same command continues)`

type cli struct {
	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`

	Init       initCmd       `cmd:"" help:"Write a config.toml for your model on this machine."`
	Plan       planCmd       `cmd:"" help:"Predict memory, time and disk of a run, and whether it fits."`
	Run        runCmd        `cmd:"" help:"Train, or continue a run."`
	Eval       evalCmd       `cmd:"" help:"Evaluate a run's newest version without tips."`
	Demos      demosCmd      `cmd:"" help:"Write demonstrations of an environment for a warm start."`
	Warm       warmstartCmd  `cmd:"" name:"warmstart" help:"Train version 0 of a run on demonstrations."`
	Status     statusCmd     `cmd:"" help:"Show what a run does now and what it waits for."`
	Ls         lsCmd         `cmd:"" help:"List the runs below a folder."`
	Show       showCmd       `cmd:"" help:"Show the steps of a run, its episodes, or a conversation."`
	Tips       tipsCmd       `cmd:"" help:"Show the tips of a run, and the returns of episodes that saw them."`
	View       viewCmd       `cmd:"" help:"Serve a page that shows runs, also while they go on."`
	Compare    compareCmd    `cmd:"" help:"Train several arms on the same budget, and draw their curves."`
	Sweep      sweepCmd      `cmd:"" help:"Train the settings of a file with several seeds, and draw their curves."`
	Export     metricsCmd    `cmd:"" help:"Write the metrics of runs for TensorBoard, trackio, or as CSV or JSON lines."`
	Trainer    trainerCmd    `cmd:"" help:"Start the trainer alone, for runs on other machines."`
	Doctor     doctorCmd     `cmd:"" help:"Check what a run needs, and report what is missing."`
	Check      checkCmd      `cmd:"" help:"Verify everything in the folder of a run."`
	Backup     backupCmd     `cmd:"" help:"Copy a run to a file, also while it goes on."`
	Memory     memoryCmd     `cmd:"" help:"Export, import, pin, unpin or remove tips of a run."`
	Prompt     promptCmd     `cmd:"" help:"Show what the policy sees in a task, or write the prompt templates."`
	Try        tryCmd        `cmd:"" help:"Sample replies to a task, and repeat at every save of the prompt."`
	Ab         abCmd         `cmd:"" name:"ab" help:"Compare two prompts, versions, models or other settings."`
	Env        envCmd        `cmd:"" help:"Serve an environment to other programs."`
	Config     configCmd     `cmd:"" help:"Print all keys with their values and meaning."`
	Completion completionCmd `cmd:"" help:"Print a script that completes commands in a shell."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

// common are the flags of every command that reads a configuration.
type common struct {
	Profile    string   `placeholder:"NAME" help:"Values for keys that no file sets: ${profiles}."`
	ConfigFile []string `name:"config" short:"c" sep:"none" placeholder:"FILE" help:"Configuration file. Repeatable."`
	Set        []string `sep:"none" placeholder:"KEY=VALUE" help:"Set a key, for example run.steps=20. Repeatable."`
	Verbose    bool     `short:"v" help:"Log every event."`
	OnlyNamed  bool     `kong:"-"` // ./config.toml is read only if it is named
}

// load reads the configuration and applies the warm start of its run. The user's
// --set flags override the values in first.
func (c common) load(first ...string) (config.Config, error) {
	loaded, err := c.loadBare(first...)
	if err != nil {
		return loaded, err
	}
	return withWarmBase(loaded)
}

// loadBare reads the configuration only.
func (c common) loadBare(first ...string) (config.Config, error) {
	source := c.source()
	source.Sets = append(first, c.Set...)
	return source.Load()
}

// source names the layers of the configuration. over are files over those of the user.
func (c common) source(over ...string) config.Source {
	paths := c.ConfigFile
	if len(paths) == 0 && !c.OnlyNamed && fileExists("config.toml") {
		paths = []string{"config.toml"}
	}
	return config.Source{
		Profile: c.Profile, Files: slices.Concat(paths, over), Sets: c.Set,
		Machine: config.Machine{GPU: inspect.Probe{}.HasGPU(), Architecture: inspect.Architecture},
		Note:    func(text string) { fmt.Fprintln(os.Stderr, "note:", text) },
	}
}

func main() {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	survivePipes()
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// errUsage marks a mistake in the command line.
var errUsage = errors.New("usage")

// execute runs one command and returns its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	exited := -1
	ctx, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	results := &resultWriter{w: stdout, gone: func() { interrupt(errInterrupted{syscall.SIGPIPE}) }}
	out := newConsole(results, stderr)
	stdout, stderr = out.out, out.err
	ctx, stop := watched(ctx, out)
	defer stop()
	help := kong.HelpOptions{Compact: true, NoExpandSubcommands: true}
	parser, err := kong.New(&c, kong.Name("empo2"), kong.Description(description), kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }), kong.ConfigureHelp(help),
		kong.Vars{"profiles": strings.Join(config.Profiles(), ", "), "version": version()},
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(out))
	if err != nil {
		fmt.Fprintln(stderr, "empo2:", err)
		return exitFailed
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help or --version
		return cmp.Or(exited, conclude(ctx, results.failure(), stderr))
	}
	if lost := results.failure(); lost != nil { // help could not be written
		return conclude(ctx, lost, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "empo2: %s\n  hint: %s --help\n", mistake(err), commandOf(err))
		return exitUsage
	}
	err = command.Run()
	out.close()
	if lost := results.failure(); err == nil || lost != nil && results.caused(err) {
		err = lost
	}
	return conclude(ctx, err, stderr)
}

// A resultWriter is standard output. It remembers that results were lost.
type resultWriter struct {
	w    io.Writer
	gone func() // called if the program that reads a pipe has ended; nil: nothing is done
	mu   sync.Mutex
	err  error // of the first write that failed
}

func (r *resultWriter) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && errors.Is(err, syscall.EPIPE) && r.gone != nil {
		r.gone()
	}
	r.err = cmp.Or(r.err, err)
	return n, err
}

// errNobodyReads is the failure of results if the program that read them has ended, as
// head does. It is no mistake.
var errNobodyReads = errors.New("nobody reads the output")

// caused reports whether err is the failed write.
func (r *resultWriter) caused(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Is(err, r.err)
}

// failure returns an error if results were lost.
func (r *resultWriter) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.err == nil:
		return nil
	case errors.Is(r.err, syscall.EPIPE):
		return errNobodyReads
	}
	return fmt.Errorf("write the results to standard output: %w\n"+
		"  hint: a part of them is lost; free some space, or write them elsewhere", r.err)
}

// watched returns a context with a watchdog that reports what takes long and
// answers SIGUSR1, until stop is called.
func watched(ctx context.Context, out *console) (_ context.Context, stop func()) {
	watch := watchdog.New()
	undump := dumpOnSignal(lockedWriter{out, out.err}, watch)
	reporting, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { watch.Run(reporting, watchdog.Options{Log: out.logger(false)}) })
	return watchdog.With(ctx, watch), func() {
		undump()
		cancel()
		group.Wait()
	}
}

// mistake words a mistake in the command line. The parser does not say it well if a
// value is missing.
func mistake(err error) string {
	text := err.Error()
	if flag, _, ok := strings.Cut(text, ": missing value, "); ok {
		return flag + " needs a value"
	}
	if flag, rest, ok := strings.Cut(text, ": expected "); ok && strings.Contains(rest, "<EOL>") {
		return flag + " needs a value"
	}
	return text
}

// commandOf returns the command that a mistake in the command line is about, for
// example "empo2 eval".
func commandOf(err error) string {
	name := "empo2"
	var fault *kong.ParseError
	if !errors.As(err, &fault) {
		return name
	}
	for _, p := range fault.Context.Path {
		if p.Command != nil {
			name += " " + p.Command.Name
		}
	}
	return name
}

// conclude prints an error once and chooses the exit code.
func conclude(ctx context.Context, err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	var configError *config.Error
	var setup *setupError
	if errors.Is(err, errNobodyReads) {
		return exitPipe
	}
	if ctx.Err() != nil && !errors.As(err, &configError) { // what fails now fails because of the signal
		what := "interrupted"
		var signal errInterrupted
		if errors.As(context.Cause(ctx), &signal) && signal.signal != os.Interrupt {
			what = signal.Error()
		}
		fmt.Fprintf(stderr, "empo2: %s; finished work is kept, and the same command continues\n", what)
		return exitInterrupted
	}
	msg, hint := splitHint(err)
	fmt.Fprintln(stderr, "empo2:", strings.TrimPrefix(msg, errUsage.Error()+": "))
	if hint != "" {
		fmt.Fprintln(stderr, "  hint:", hint)
	}
	switch {
	case errors.As(err, &configError), errors.Is(err, errUsage):
		return exitUsage
	case errors.As(err, &setup):
		return exitSetup
	}
	return exitFailed
}

// splitHint separates the remedy at the end of an error's text, which is on
// a line of its own.
func splitHint(err error) (msg, hint string) {
	msg, hint, _ = strings.Cut(err.Error(), "\n  hint: ")
	return msg, hint
}
