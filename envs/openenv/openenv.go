// Package openenv drives environment servers of OpenEnv
// (https://github.com/meta-pytorch/OpenEnv) over their WebSocket.
//
// A connection is a session with one environment. (The HTTP routes /reset and
// /step are not used, because they create a new environment for every request.)
// Actions and observations of OpenEnv are JSON objects, and their fields depend on
// the environment. A template turns the policy's text into an action, and paths
// select the parts of an observation to show.
//
// Read episode.go first, then session.go for the protocol.
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
	// Action is the template of an action. {action} inside a text is replaced
	// by the text that the policy wrote. The text "{action:json}" is replaced
	// by the JSON that the policy wrote. Default: the only field that the
	// server's schema requires.
	Action map[string]any
	// Observation lists the fields of an observation to show, one per line.
	// Examples are "prompt" and "messages.-1.content" (the content of the last
	// message). Default: the only field, or all fields as JSON.
	Observation []string
	Instruction string // text of a task
	Reflection  string // text of a task
	// Concurrency is the largest number of open episodes. Further episodes
	// wait. Default 1, like the default of a server (max_concurrent_envs).
	Concurrency int
}

// A Family opens episodes on one server. It is safe for concurrent use.
type Family struct {
	config      Config
	client      *exchange.Client
	http        *http.Client // for the handshakes
	tasks       *numbered.Tasks
	concurrency *semaphore.Weighted
}

var _ envs.Family = (*Family)(nil)

// Open reads the server's schema and starts the first episode as a test. If the
// server has another protocol, or a template does not fit the schema, the error
// has a hint.
func Open(ctx context.Context, c Config) (*Family, error) {
	if c.Name == "" {
		c.Name = "openenv"
	}
	if c.Concurrency == 0 {
		c.Concurrency = 1
	}
	if c.Concurrency < 0 {
		return nil, fmt.Errorf("%s: concurrency = %d is negative", c.Name, c.Concurrency)
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
		tasks: tasks, concurrency: semaphore.NewWeighted(int64(c.Concurrency)),
	}
	if err := f.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", c.Name, err), f.Close())
	}
	return f, nil
}

// probe checks that the server speaks the protocol, and reads the schema of its
// actions.
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

// Tasks implements [envs.Family]. There is a task for each seed.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	tasks, err := f.tasks.Of(split)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.config.Name, err)
	}
	return tasks, nil
}

// Open implements [envs.Family]. It waits while too many episodes are open.
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	seed, err := f.tasks.Number(t)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.config.Name, err)
	}
	if err := f.concurrency.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("%s: open %s: %w", f.config.Name, t.ID, context.Cause(ctx))
	}
	return envs.Guard(&episode{family: f, seed: seed, open: true}), nil
}

// Close implements [envs.Family].
func (f *Family) Close() error {
	f.client.Close()
	return nil
}
