package pyenv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
)

// stream runs a tool, calls each with every line of output, and returns the last
// lines. each may be nil.
func stream(ctx context.Context, timeout time.Duration, each func(string), args ...string) ([]string, error) {
	const needs = process.Network | process.Libraries | process.Pip
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %v", timeout))
	defer cancel()
	err := process.Run(ctx, process.Command{Args: args, Needs: needs, Merge: true, Stdout: func(line string) bool {
		if each != nil {
			each(line)
		}
		return true
	}})
	return split(err)
}

// split separates the output from an error, because this package's errors have
// their own field for it.
func split(err error) (output []string, short error) {
	var exit *process.ExitError
	if errors.As(err, &exit) {
		return exit.Output, errors.New(exit.State)
	}
	return nil, err
}

// ask runs a script and returns its stdout.
func ask(ctx context.Context, timeout time.Duration, python, script string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
	defer cancel()
	answer, err := process.Output(ctx, process.Command{
		Args: append([]string{python, "-c", script}, args...), Needs: process.Libraries | process.Models,
	})
	if output, short := split(err); len(output) > 0 {
		return nil, fmt.Errorf("%w: %s", short, mainLine(output))
	}
	return answer, err
}
