// Package openenv drives environment servers of OpenEnv
// (https://github.com/meta-pytorch/OpenEnv) over their WebSocket.
//
// One connection is one session with one environment; the HTTP routes /reset
// and /step build an environment anew for every request, and are of no use for
// episodes. An action of OpenEnv is an object of the environment's own shape,
// and so is an observation: templates and paths translate them.
package openenv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/sync/semaphore"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/numbered"
)

// Config describes a family.
type Config struct {
	exchange.Server        // Timeout bounds one message and its answer
	Name            string // of the environment; default "openenv"
	// Splits are the seeds of the tasks. Train is required.
	numbered.Splits
	// Options are sent with every reset, beside the seed.
	Options map[string]any
	// Action is the object that an action is sent as. In its texts, {action}
	// stands for what the policy wrote; a text that is all "{action:json}" is
	// replaced by the JSON that the policy wrote. Default: the one field that
	// the server's schema asks for.
	Action map[string]any
	// Observation lists what of an observation is shown, a line each, such as
	// "prompt" or "messages.-1.content" (the last message's content). Default:
	// the only field, or all of them as JSON.
	Observation []string
	Instruction string // text of a task
	Reflection  string // text of a task
	// Episodes open at once at most, the others wait; default 1, which is also
	// what a server allows by default (max_concurrent_envs).
	Episodes int
}

// A Family opens episodes on one server. It is safe for concurrent use.
type Family struct {
	config Config
	client *exchange.Client
	http   *http.Client // for the handshakes
	tasks  *numbered.Tasks
	slots  *semaphore.Weighted
}

var _ envs.Family = (*Family)(nil)

// Open reads the server's schema and, as a trial, begins the first episode. A
// server of another protocol is refused with a hint, and so are templates that
// do not fit its schema.
func Open(ctx context.Context, c Config) (*Family, error) {
	if c.Name == "" {
		c.Name = "openenv"
	}
	if c.Episodes == 0 {
		c.Episodes = 1
	}
	if c.Episodes < 0 {
		return nil, fmt.Errorf("%s: episodes = %d is negative", c.Name, c.Episodes)
	}
	tasks, err := numbered.New("seed", c.Splits, envs.Task{Instruction: c.Instruction, Reflection: c.Reflection})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	if rest, ok := strings.CutPrefix(c.URL, "ws"); ok {
		c.URL = "http" + rest // ws: and wss:
	}
	client, err := exchange.New(c.Server)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	f := &Family{
		config: c, client: client, http: client.HTTP(),
		tasks: tasks, slots: semaphore.NewWeighted(int64(c.Episodes)),
	}
	if err := f.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", c.Name, err), f.Close())
	}
	return f, nil
}

// probe finds out whether the server speaks the protocol and what it wants to
// be told.
func (f *Family) probe(ctx context.Context) error {
	s, err := readSchema(ctx, f.client)
	if err != nil {
		return err
	}
	if f.config.Action, err = s.Template("action", f.config.Action); err != nil {
		return err
	}
	trial := &episode{family: f, seed: f.tasks.First(), prompt: true}
	defer trial.end()
	_, err = trial.Reset(ctx)
	return err
}

// Name implements [envs.Family].
func (f *Family) Name() string { return f.config.Name }

// Tasks implements [envs.Family]: a task for each seed.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	tasks, err := f.tasks.Of(split)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.config.Name, err)
	}
	return tasks, nil
}

// Open implements [envs.Family]. It waits while Episodes are open.
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	seed, err := f.tasks.Number(t)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.config.Name, err)
	}
	if err := f.slots.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("%s: open %s: %w", f.config.Name, t.ID, context.Cause(ctx))
	}
	return envs.Guard(&episode{family: f, seed: seed, open: true}), nil
}

// Close implements [envs.Family].
func (f *Family) Close() error {
	f.client.Close()
	return nil
}
