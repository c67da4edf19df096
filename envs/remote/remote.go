// Package remote drives your own environment behind a simple HTTP protocol. A
// server needs a few lines in any language. scripts/example_env.py is complete.
//
//	POST /reset {"seed": 7, "options": {}}     → {"id": "a1", "observation": "…"}
//	POST /step  {"id": "a1", "action": "left"} → {"observation": "…", "reward": 0,
//	                                              "terminated": false, "truncated": false, "info": {}}
//
// An observation is a text or {"feedback": "…", "state": "…"}. The second form
// separates the result of the action from the situation, and the memory works better
// with it. The same seed and options must give the same episode. info may have
// "success" (true or false) and "score" (a number for reports, not for training).
//
// Two routes are optional:
//
//   - GET / answers {"protocol": "empo2-env", "version": 1}, and may add the texts
//     of a task, "instruction" and "reflection".
//   - POST /close {"id": "a1"} ends an unfinished episode.
//
// The status of an answer means:
//
//   - 400, 413, 422 at /step: the action is refused. The policy reads the reason
//     in {"error": "…"}.
//   - 429, 503: the server is full. The request is repeated later.
//   - 404, 410: the episode does not exist any more.
//   - any other error: the episode is lost.
//
// The sub-packages are shared with openenv, ors and agentgym: exchange sends the
// requests, numbered lists tasks by number, template makes JSON actions from text,
// and turns makes steps from answers.
package remote

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/semaphore"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

const (
	protocol = "empo2-env"
	version  = 1
)

// Config describes a family.
type Config struct {
	exchange.Server
	Name string // of the environment; default "remote"
	// Splits are the seeds of the tasks. Train is required.
	numbered.Splits
	// Options are sent with every reset. May be nil.
	Options map[string]any
	// Instruction and Reflection are the texts of a task. Default: the texts of
	// the server.
	Instruction string
	Reflection  string
	// Concurrency is the largest number of open episodes. Further episodes
	// wait. Default 8.
	Concurrency int
}

// A Family opens episodes on one server. It is safe for concurrent use.
type Family struct {
	config      Config
	client      *exchange.Client
	tasks       *numbered.Tasks
	concurrency *semaphore.Weighted
}

var _ envs.Family = (*Family)(nil)

// Open reads the server's description and starts the first episode as a test. If
// the server has another protocol or version, the error has a hint.
func Open(ctx context.Context, c Config) (*Family, error) {
	if c.Name == "" {
		c.Name = "remote"
	}
	if c.Concurrency == 0 {
		c.Concurrency = 8
	}
	if c.Options == nil {
		c.Options = map[string]any{}
	}
	if c.Concurrency < 0 {
		return nil, fmt.Errorf("%s: concurrency = %d is negative", c.Name, c.Concurrency)
	}
	client, err := exchange.New(c.Server)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	f := &Family{config: c, client: client, concurrency: semaphore.NewWeighted(int64(c.Concurrency))}
	if err := f.probe(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return f, nil
}

// probe checks that the server speaks the protocol.
func (f *Family) probe(ctx context.Context) error {
	d, err := describe(ctx, f.client)
	if err != nil {
		return err
	}
	like := envs.Task{Instruction: f.config.Instruction, Reflection: f.config.Reflection}
	if like.Instruction == "" {
		like.Instruction = d.Instruction
	}
	if like.Reflection == "" {
		like.Reflection = d.Reflection
	}
	if f.tasks, err = numbered.New("seed", f.config.Splits, like); err != nil {
		return err
	}
	trial := &episode{family: f, seed: f.tasks.First(), prompt: true}
	if _, err := trial.Reset(ctx); err != nil {
		var failure *jsonhttp.Error
		if errors.As(err, &failure) && (failure.Kind == jsonhttp.Refused || failure.Kind == jsonhttp.Malformed) {
			return fmt.Errorf("%w\n  hint: %s", err, f.client.Recognize(ctx, "remote"))
		}
		return err
	}
	trial.end()
	return nil
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
