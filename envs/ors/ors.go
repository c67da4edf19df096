// Package ors drives environment servers of the Open Reward Standard
// (https://github.com/openrewardstandard/python-sdk), which OpenReward speaks
// too. The facts in this package are read from that SDK's src/ors at 34b9c21.
//
// An episode is a session in which the policy calls tools; every answer of a
// tool carries a reward. A task is a number within a split of the server.
package ors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/sync/semaphore"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// Config describes a family.
type Config struct {
	// Server's Token is sent as a bearer token and as X-API-Key. Timeout bounds
	// one tool call and every other request.
	exchange.Server
	Environment string // of the server's; default: the only one that it has
	// Train, Eval and Test are the tasks; defaults: all of the server's split
	// "train", those of Train, and none.
	Train, Eval, Test Set
	// Tool is called with every action; empty: the policy writes tool calls.
	Tool string
	// Input is the tool's input, in whose texts {action} stands for what the
	// policy wrote, and "{action:json}" for JSON that it wrote. Default: the
	// tool's one field.
	Input map[string]any
	// Episodes open at once at most, the others wait; default 8.
	Episodes int
}

// A Family opens episodes of one environment. It is safe for concurrent use.
type Family struct {
	config  Config
	client  *exchange.Client
	env     string // as the server spells it
	tasks   tasks
	actions actions
	slots   *semaphore.Weighted
}

var _ envs.Family = (*Family)(nil)

// Open asks the server for its environments, splits and tools and, as a trial,
// begins the first episode. A server of another protocol is refused with a
// hint, and so are an environment, a split, a task or a tool that it lacks.
func Open(ctx context.Context, c Config) (*Family, error) {
	if c.Episodes == 0 {
		c.Episodes = 8
	}
	if c.Episodes < 0 {
		return nil, fmt.Errorf("ors: episodes = %d is negative", c.Episodes)
	}
	client, err := exchange.New(c.Server)
	if err != nil {
		return nil, fmt.Errorf("ors: %w", err)
	}
	f := &Family{config: c, client: client, slots: semaphore.NewWeighted(int64(c.Episodes))}
	if err := f.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("ors: %w", err), f.Close())
	}
	return f, nil
}

func (f *Family) probe(ctx context.Context) (err error) {
	if f.env, err = f.choose(ctx); err != nil {
		return err
	}
	var listed struct{ Tools []tool }
	if err := f.ask(ctx, f.path("/tools"), nil, &listed); err != nil {
		return err
	}
	if f.actions, err = newActions(listed.Tools, f.config.Tool, f.config.Input); err != nil {
		return err
	}
	if f.tasks, err = f.readTasks(ctx); err != nil {
		return err
	}
	trial := &episode{family: f, at: f.tasks.places[f.tasks.splits[envs.Train][0].ID], prompt: true}
	defer trial.end()
	_, err = trial.Reset(ctx)
	return err
}

// choose finds the environment among those of the server, which compares their
// names without regard to case.
func (f *Family) choose(ctx context.Context) (string, error) {
	r := f.request("/list_environments", nil, "")
	r.Prompt = true
	raw, err := f.client.Do(ctx, r)
	var names []string
	var failure *jsonhttp.Error
	switch {
	case !errors.As(err, &failure):
	case failure.Kind == jsonhttp.Unreached:
		return "", fmt.Errorf("%w (hint: start the environment's server, or set its url)", err)
	case failure.Status == http.StatusUnauthorized || failure.Status == http.StatusForbidden:
		return "", fmt.Errorf("%w (hint: is the key right?)", err)
	case failure.Kind == jsonhttp.Refused || failure.Kind == jsonhttp.Malformed:
		return "", fmt.Errorf("%w (hint: %s)", err, f.client.Recognize(ctx))
	}
	switch {
	case err != nil:
		return "", err
	case json.Unmarshal(raw, &names) != nil || len(names) == 0:
		return "", fmt.Errorf("GET /list_environments answers no list of names (hint: %s)", f.client.Recognize(ctx))
	case f.config.Environment == "" && len(names) == 1:
		return names[0], nil
	}
	for _, name := range names {
		if strings.EqualFold(name, f.config.Environment) {
			return name, nil
		}
	}
	return "", fmt.Errorf("no environment %q (hint: environment = %q, or another of %q)", f.config.Environment, names[0], names)
}

// path is one below the environment.
func (f *Family) path(suffix string) string {
	return (&url.URL{Path: "/" + f.env + suffix}).EscapedPath()
}

// request adds the headers that the protocol wants.
func (f *Family) request(path string, body any, session string) exchange.Request {
	header := map[string]string{}
	if f.config.Token != "" {
		header["X-API-Key"] = f.config.Token
	}
	if session != "" {
		header["X-Session-ID"] = session
	}
	return exchange.Request{Path: path, Body: body, Header: header}
}

// ask makes an exchange outside any session.
func (f *Family) ask(ctx context.Context, path string, body, answer any) error {
	r := f.request(path, body, "")
	r.Repeatable = true
	raw, err := f.client.Do(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("%s: the answer is not one of ORS: %w", path, err)
	}
	return nil
}

// Name implements [envs.Family].
func (f *Family) Name() string { return "ors" }

// Tasks implements [envs.Family]: a task for each number.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	tasks, err := f.tasks.of(split)
	if err != nil {
		return nil, fmt.Errorf("ors: %w", err)
	}
	return tasks, nil
}

// Open implements [envs.Family]. It waits while Episodes are open.
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	at, ok := f.tasks.places[t.ID]
	if !ok {
		return nil, fmt.Errorf("ors: unknown task %q (hint: tasks are SPLIT-NUMBER)", t.ID)
	}
	if err := f.slots.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("ors: open %s: %w", t.ID, context.Cause(ctx))
	}
	return envs.Guard(&episode{family: f, at: at, open: true}), nil
}

// Close implements [envs.Family].
func (f *Family) Close() error {
	f.client.Close()
	return nil
}
