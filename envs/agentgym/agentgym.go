// Package agentgym drives the environment servers of AgentGym
// (https://github.com/WooooDyy/AgentGym). They share one HTTP protocol, but each
// server has other field names. The table in dialects.go lists the differences.
//
// Environments on a server are reused for many episodes, because creating one may
// start a JVM, and several servers never delete one. A task is a number that the
// server knows (data_idx, game, session_id, …).
package agentgym

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/semaphore"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// Config describes a family.
type Config struct {
	exchange.Server
	Dialect string // one of [Dialects]; required
	// Splits are the numbers of the tasks. The default are the server's own
	// splits. If the server has none, Train is required.
	numbered.Splits
	// Instruction and Reflection are the texts of a task. Default: the text of
	// the dialect about its actions, and no reflection.
	Instruction string
	Reflection  string
	// Concurrency is the largest number of open episodes, and of environments
	// on the server. Further episodes wait. Default 8.
	Concurrency int
}

// A Family opens episodes on one server. It is safe for concurrent use.
type Family struct {
	config      Config
	dialect     dialect
	client      *exchange.Client
	tasks       *numbered.Tasks
	concurrency *semaphore.Weighted
	pool        pool
}

var _ envs.Family = (*Family)(nil)

// Open reads the server's greeting and starts the first episode as a test. If the
// server has another dialect or protocol, the error has a hint.
func Open(ctx context.Context, c Config) (*Family, error) {
	f, err := prepare(c)
	if err != nil {
		return nil, fmt.Errorf("agentgym: %w", err)
	}
	if err := f.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("agentgym: %w", err), f.Close())
	}
	return f, nil
}

// prepare checks everything that can be checked without the server.
func prepare(c Config) (*Family, error) {
	d, splits, err := lookup(c.Dialect, c.Splits)
	if err != nil {
		return nil, err
	}
	if c.Concurrency == 0 {
		c.Concurrency = 8
	}
	if c.Concurrency < 0 {
		return nil, fmt.Errorf("concurrency = %d is negative", c.Concurrency)
	}
	like := envs.Task{Instruction: orElse(c.Instruction, d.instruction), Reflection: c.Reflection}
	tasks, err := numbered.New(c.Dialect, splits, like)
	if err != nil {
		return nil, err
	}
	client, err := exchange.New(c.Server)
	if err != nil {
		return nil, err
	}
	return &Family{
		config: c, dialect: d, client: client, tasks: tasks, concurrency: semaphore.NewWeighted(int64(c.Concurrency)),
		pool: pool{dialect: d, client: client, log: c.Log},
	}, nil
}

// probe checks that the server speaks the dialect. Its environment stays in the
// pool.
func (f *Family) probe(ctx context.Context) error {
	greeted, err := f.greet(ctx)
	if err != nil {
		return err
	}
	trial := &episode{family: f, task: f.tasks.First()}
	_, err = trial.Reset(ctx)
	trial.end()
	var failure *jsonhttp.Error
	if !errors.As(err, &failure) || failure.Kind != jsonhttp.Refused && failure.Kind != jsonhttp.Malformed {
		return err
	}
	if greeted {
		return fmt.Errorf("%w\n  hint: it is a server of AgentGym, but perhaps of another version or dialect: %s",
			err, strings.Join(greeters(f.dialect.greeting), ", "))
	}
	return fmt.Errorf("%w\n  hint: %s", err, f.client.Recognize(ctx, "agentgym"))
}

// greet compares the server's greeting with the dialect's and reports whether they
// are equal. A server without a greeting is not an error.
func (f *Family) greet(ctx context.Context) (same bool, err error) {
	raw, err := f.client.Do(ctx, exchange.Request{Path: "/", Prompt: true})
	var failure *jsonhttp.Error
	if errors.As(err, &failure) && failure.Kind == jsonhttp.Unreached {
		return false, fmt.Errorf("%w\n  hint: start AgentGym's server of %s, or correct the url", err, f.config.Dialect)
	}
	if errors.As(err, &failure) && failure.Kind == jsonhttp.Refused {
		return false, nil // the server has no greeting
	}
	if errors.As(err, &failure) && failure.Kind == jsonhttp.Malformed {
		return false, fmt.Errorf("%w\n  hint: %s", err, f.client.Recognize(ctx, "agentgym"))
	}
	if err != nil {
		return false, err
	}
	var greeting string
	if json.Unmarshal(raw, &greeting) != nil || greeting == f.dialect.greeting {
		return greeting == f.dialect.greeting, nil
	}
	if others := greeters(greeting); others != nil {
		return false, fmt.Errorf("the server is not AgentGym's %s, its greeting is %q\n  hint: set the dialect to %s",
			f.config.Dialect, greeting, strings.Join(others, " or "))
	}
	return false, nil
}

// Name implements [envs.Family].
func (f *Family) Name() string { return f.config.Dialect }

// Tasks implements [envs.Family]. There is a task for each number.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	tasks, err := f.tasks.Of(split)
	if err != nil {
		return nil, fmt.Errorf("agentgym: %w", err)
	}
	return tasks, nil
}

// Open implements [envs.Family]. It waits while too many episodes are open.
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	n, err := f.tasks.Number(t)
	if err != nil {
		return nil, fmt.Errorf("agentgym: %w", err)
	}
	if err := f.concurrency.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("agentgym: open %s: %w", t.ID, context.Cause(ctx))
	}
	return envs.Guard(&episode{family: f, task: n, open: true}), nil
}

// Close implements [envs.Family]. It deletes the environments on the server if
// the dialect can do that.
func (f *Family) Close() error {
	f.pool.close()
	f.client.Close()
	return nil
}
