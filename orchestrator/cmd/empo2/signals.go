package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// errInterrupted is the cause of a context that a signal ended.
type errInterrupted struct{ signal os.Signal }

func (e errInterrupted) Error() string {
	name := e.signal.String()
	switch e.signal {
	case os.Interrupt:
		name = "Ctrl-C"
	case syscall.SIGTERM:
		name = "SIGTERM"
	case syscall.SIGHUP:
		name = "SIGHUP"
	case syscall.SIGPIPE:
		name = "nobody reads the output"
	}
	return watchdog.EndedInterrupted + "(" + name + ")"
}

// untilSignal returns a context that ends with the first signal that asks the
// program to end. A second one ends it at once.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // nohup
			signal.Notify(signals, s)
		}
	}
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(errInterrupted{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// survivePipes lets writes to a pipe that nobody reads fail. Otherwise they end the
// program at once, before it can stop a run.
func survivePipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// dump writes what is in flight and the stacks of all goroutines.
func dump(w io.Writer, watch *watchdog.Watch) {
	stacks := make([]byte, 8<<20)
	n := runtime.Stack(stacks, true)
	fmt.Fprintf(w, "%s\n\n%s\n", watch.Text(), stacks[:n])
}
