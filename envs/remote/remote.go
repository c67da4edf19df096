// Package remote drives environments of one's own behind the plain HTTP schema,
// which any language serves in a few lines:
//
//	POST /reset {"seed": 7, "options": {}}     → {"id": "a1", "observation": "…"}
//	POST /step  {"id": "a1", "action": "left"} → {"observation": "…", "reward": 0, "terminated": false, "truncated": false, "info": {}}
//
// An observation is a text, or {"feedback": "…", "state": "…"} where what the
// action did is told apart from the situation, which is better for the memory.
// The same seed and options must give the same episode. info may hold
// "success" (true or false) and "score" (a number, reported but never trained
// on).
//
// Two more routes are optional: GET / describes the server as {"protocol":
// "empo2-env", "version": 1} and may add "instruction" and "reflection", the
// texts of a task; POST /close {"id": "a1"} ends an episode before its end.
//
// Statuses: 400, 413 and 422 at /step refuse an action, which the policy is
// told ({"error": "…"} says why); 429 and 503 mean that the server is full, and
// it is asked again later; 404 and 410 mean that the episode is gone. Anything
// else loses the episode. scripts/example_env.py is a whole server.
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
	// Options are sent with every reset.
	Options map[string]any
	// Instruction and Reflection are the task's texts; default: the server's.
	Instruction string
	Reflection  string
	// Episodes open at once at most, the others wait; default 8.
	Episodes int
}

// A Family opens episodes on one server. It is safe for concurrent use.
type Family struct {
	config Config
	client *exchange.Client
	tasks  *numbered.Tasks
	slots  *semaphore.Weighted
}

var _ envs.Family = (*Family)(nil)

// Open asks the server to describe itself and, as a trial, for the first
// episode. A server of another protocol or version is refused with a hint.
func Open(ctx context.Context, c Config) (*Family, error) {
	if c.Name == "" {
		c.Name = "remote"
	}
	if c.Episodes == 0 {
		c.Episodes = 8
	}
	if c.Options == nil {
		c.Options = map[string]any{}
	}
	if c.Episodes < 0 {
		return nil, fmt.Errorf("%s: episodes = %d is negative", c.Name, c.Episodes)
	}
	client, err := exchange.New(c.Server)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	f := &Family{config: c, client: client, slots: semaphore.NewWeighted(int64(c.Episodes))}
	if err := f.probe(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return f, nil
}

// probe finds out whether the server speaks the schema.
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
			return fmt.Errorf("%w (hint: %s)", err, f.client.Recognize(ctx))
		}
		return err
	}
	trial.end()
	return nil
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
