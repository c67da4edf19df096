package process

import (
	"bytes"
	"context"
	"fmt"
	"syscall"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// Run runs a tool until it ends. If the status is not 0, the error is an
// [*ExitError]. When ctx ends, the tool gets SIGINT, so that it can clean up,
// and is killed after the grace. The error is then the context's cause. Ready,
// Poll and Stdin are ignored.
func Run(ctx context.Context, c Command) error {
	c.Ready, c.Poll, c.Stdin = nil, nil, false
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p, err := begin(c)
	if err != nil {
		return fmt.Errorf("run %s: %w", p.c.Name, err)
	}
	defer watchdog.Owns(ctx, p.c.Name, p.PID())()
	if !c.Merge { // otherwise the caller reads the whole output and shows its progress
		defer watchdog.Begin(ctx, "tool", p.c.Name, 0)()
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stopped.Store(true)
		p.signal(syscall.SIGINT)
		p.killAfterGrace()
	}
	switch {
	case p.cmd.ProcessState != nil && p.cmd.ProcessState.Success():
		return nil
	case ctx.Err() != nil:
		return p.explain(context.Cause(ctx))
	}
	return p.exitError()
}

// maxAnswer is the most that Output returns, in bytes.
const maxAnswer = 4 << 20

// Output runs a tool as [Run] does and returns its stdout, without empty lines.
// Errors quote only stderr.
func Output(ctx context.Context, c Command) ([]byte, error) {
	var answer bytes.Buffer
	c.Stdout = func(line string) bool {
		if answer.Len()+len(line) < maxAnswer {
			answer.WriteString(line + "\n")
		}
		return false
	}
	err := Run(ctx, c)
	return answer.Bytes(), err
}
