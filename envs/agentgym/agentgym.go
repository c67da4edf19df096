// Package agentgym drives the environment servers of AgentGym
// (https://github.com/WooooDyy/AgentGym): one HTTP protocol, in which every
// server names its fields differently. The differences are a table of dialects.
//
// An environment of a server is used for one episode after the other, since
// creating one may start a JVM and several servers never give one up. A task
// is the server's own number for it (data_idx, game, session_id, …).
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
	// Splits are the tasks' numbers. Where the server's numbering tells its
	// splits apart, they are the default; elsewhere Train is required.
	numbered.Splits
	// Instruction and Reflection are the texts of a task; default: what the
	// dialect says about its actions, and none.
	Instruction string
	Reflection  string
	// Episodes open at once at most, the others wait; default 8. It is also
	// the largest number of environments that the server is asked for.
	Episodes int
}

// A Family opens episodes on one server. It is safe for concurrent use.
type Family struct {
	config  Config
	dialect dialect
	client  *exchange.Client
	tasks   *numbered.Tasks
	slots   *semaphore.Weighted
	pool    pool
}

var _ envs.Family = (*Family)(nil)

// Open asks the server who it is and, as a trial, for the first episode. A
// server of another dialect or protocol is refused with a hint.
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
	if c.Episodes == 0 {
		c.Episodes = 8
	}
	if c.Episodes < 0 {
		return nil, fmt.Errorf("episodes = %d is negative", c.Episodes)
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
		config: c, dialect: d, client: client, tasks: tasks, slots: semaphore.NewWeighted(int64(c.Episodes)),
		pool: pool{dialect: d, client: client, log: c.Log},
	}, nil
}

// probe finds out whether the server speaks the dialect. The environment that
// it uses is the first of the pool.
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
		return fmt.Errorf("%w (hint: the server is of AgentGym, but perhaps of another version or dialect: %s)", err, strings.Join(greeters(f.dialect.greeting), ", "))
	}
	return fmt.Errorf("%w (hint: %s)", err, f.client.Recognize(ctx))
}

// greet compares the server's greeting, if it has one, with the dialect's, and
// reports whether they are the same.
func (f *Family) greet(ctx context.Context) (same bool, err error) {
	raw, err := f.client.Do(ctx, exchange.Request{Path: "/", Prompt: true})
	var failure *jsonhttp.Error
	if errors.As(err, &failure) && failure.Kind == jsonhttp.Unreached {
		return false, fmt.Errorf("%w (hint: start AgentGym's server of %s, or set its url)", err, f.config.Dialect)
	}
	if errors.As(err, &failure) && failure.Kind == jsonhttp.Refused {
		return false, nil // no greeting
	}
	if errors.As(err, &failure) && failure.Kind == jsonhttp.Malformed {
		return false, fmt.Errorf("%w (hint: %s)", err, f.client.Recognize(ctx))
	}
	if err != nil {
		return false, err
	}
	var greeting string
	if json.Unmarshal(raw, &greeting) != nil || greeting == f.dialect.greeting {
		return greeting == f.dialect.greeting, nil
	}
	if others := greeters(greeting); others != nil {
		return false, fmt.Errorf("the server is not AgentGym's %s; it says %q (hint: set the dialect to %s)",
			f.config.Dialect, greeting, strings.Join(others, " or "))
	}
	return false, nil
}

// Name implements [envs.Family].
func (f *Family) Name() string { return f.config.Dialect }

// Tasks implements [envs.Family]: a task for each number.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	tasks, err := f.tasks.Of(split)
	if err != nil {
		return nil, fmt.Errorf("agentgym: %w", err)
	}
	return tasks, nil
}

// Open implements [envs.Family]. It waits while Episodes are open.
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	n, err := f.tasks.Number(t)
	if err != nil {
		return nil, fmt.Errorf("agentgym: %w", err)
	}
	if err := f.slots.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("agentgym: open %s: %w", t.ID, context.Cause(ctx))
	}
	return envs.Guard(&episode{family: f, task: n, open: true}), nil
}

// Close implements [envs.Family]. It gives the environments back where the
// server takes them.
func (f *Family) Close() error {
	f.pool.close()
	f.client.Close()
	return nil
}
