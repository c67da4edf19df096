package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

type trainerCmd struct {
	common
	Listen string `default:"127.0.0.1:8000" placeholder:"HOST:PORT" help:"Address; 0.0.0.0:8000 is every network."`
	Root   string `placeholder:"DIR" help:"Folder for checkpoints on their way to a run."`
}

// Help is shown by empo2 trainer --help.
func (trainerCmd) Help() string {
	return `Starts the trainer of ./config.toml's model alone, with the keys of [trainer], until it is
interrupted. A run on another machine uses it with
  [trainer]
  url = "http://this-machine:8000"
and the same model. The token is taken from EMPO2_TRAINER_KEY on both machines. Without that
variable a new token is made and printed. The connection is not encrypted: use it in a network
that you trust, through ssh -L, or behind a proxy that speaks https.

Examples:
  empo2 trainer                                       only for this machine
  EMPO2_TRAINER_KEY=… empo2 trainer --listen 0.0.0.0:8000`
}

func (cmd *trainerCmd) Run(ctx context.Context, out *console) error {
	host, port, err := cmd.address()
	if err != nil {
		return err
	}
	c, err := cmd.load()
	if err != nil {
		return err
	}
	if c.Trainer.URL != "" {
		return &config.Error{Place: "trainer.url", Msg: "names another trainer, but this command starts one",
			Hint: `leave it out for this command: --set trainer.url=""`}
	}
	if !trains(c) {
		return &config.Error{Place: "algorithm.name", Msg: c.Algorithm.Name + " trains no weights", Hint: "empo2 or grpo"}
	}
	log := out.logger(cmd.Verbose)
	t, err := setUpTrainer(ctx, c, out, log)
	if err != nil {
		return err
	}
	root := cmd.Root
	if root == "" {
		root = filepath.Join(c.Run.Dir, "trainer")
	}
	settings := newTrainer(c, t, root, log).Process
	settings.Host, settings.Port, settings.Token = host, port, trainerKey()
	settings.Formats = []string{"peft"} // runs convert adapters themselves
	out.phase("", watchdog.Phase{Name: watchdog.PhaseStart, Detail: "trainer", Since: time.Now()})
	process, err := trainerbridge.Start(ctx, settings)
	out.endPhase("")
	if err != nil {
		return err
	}
	defer process.Close()
	cmd.tell(out, process, t.model)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-process.Exited():
		return process.Err()
	}
}

// address reads --listen.
func (cmd *trainerCmd) address() (host string, port int, err error) {
	host, text, err := net.SplitHostPort(cmd.Listen)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err == nil && (port < 0 || port > 65535) {
		err = errors.New("no such port")
	}
	if err != nil {
		return "", 0, fmt.Errorf("%w: --listen %q is not HOST:PORT\n  hint: 127.0.0.1:8000, or 0.0.0.0:8000 for every "+
			"network", errUsage, cmd.Listen)
	}
	if host == "" {
		return "", 0, fmt.Errorf("%w: --listen %q names no host\n  hint: 127.0.0.1%s, or 0.0.0.0%s for every network",
			errUsage, cmd.Listen, cmd.Listen, cmd.Listen)
	}
	return host, port, nil
}

// tell prints how a run reaches the trainer.
func (cmd *trainerCmd) tell(out *console, process *trainerbridge.Process, model string) {
	host, _, _ := net.SplitHostPort(cmd.Listen)
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host, _ = os.Hostname(); host == "" {
			host = "this-machine"
		}
	}
	at := net.JoinHostPort(host, strconv.Itoa(process.Ready().Port))
	out.print("the trainer of %s listens at http://%s; a run uses it with", model, at)
	if trainerKey() == "" {
		out.print("  export %s=%s", trainerbridge.KeyVariable, process.Token())
	}
	out.print("  empo2 run --set trainer.url=http://%s", at)
}
