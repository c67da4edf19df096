package process

import (
	"bytes"
	"context"
	"fmt"
	"syscall"
)

// Run runs a tool to its end. When ctx ends, the tool is interrupted, so that
// it can clean up, and killed after the grace; the error is then the context's
// cause. Else the error of a status other than 0 is an [*ExitError]. Ready,
// Poll and Stdin have no meaning here.
func Run(ctx context.Context, c Command) error {
	c.Ready, c.Poll, c.Stdin = nil, nil, false
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p, err := begin(c)
	if err != nil {
		return fmt.Errorf("run %s: %w", p.c.Name, err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.ended.Store(true)
		p.signal(syscall.SIGINT)
		p.orKill()
	}
	switch {
	case p.cmd.ProcessState != nil && p.cmd.ProcessState.Success():
		return nil
	case ctx.Err() != nil:
		return p.explain(context.Cause(ctx))
	}
	return p.exitError()
}

// maxAnswer bounds what Output returns, in bytes.
const maxAnswer = 4 << 20

// Output is [Run] for a tool that answers a question: it returns the lines of
// stdout, joined again. Errors quote stderr.
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
