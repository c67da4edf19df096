// Package ors drives environment servers of the Open Reward Standard
// (https://github.com/openrewardstandard/python-sdk), including OpenReward's
// servers. File names in the comments are those of that SDK (src/ors at 34b9c21).
//
// An episode is a session in which the policy calls tools. The answer of a tool
// has a reward. A task is a number in one of the server's splits.
//
// Read episode.go first, then session.go for the protocol.
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
	"github.com/empo2/empo2/orchestrator/safetext"
)

// Config describes a family.
type Config struct {
	// The Token is sent as a bearer token and as X-API-Key. Timeout is the
	// deadline of one tool call, and of every other request.
	exchange.Server
	Environment string // name of the environment; default: the only one on the server
	// Train, Eval and Test are the tasks. Defaults: the server's split "train",
	// the tasks of Train, and none.
	Train, Eval, Test Set
	// Tool is called with every action. Empty: the policy writes tool calls.
	Tool string
	// Input is the template of the tool's input. {action} inside a text is
	// replaced by the text that the policy wrote, and "{action:json}" by the
	// JSON that it wrote. Default: the only field of the tool.
	Input map[string]any
	// Concurrency is the largest number of open episodes. Further episodes
	// wait. Default 8.
	Concurrency int
}

// A Family opens episodes of one environment. It is safe for concurrent use.
type Family struct {
	config      Config
	client      *exchange.Client
	env         string // name of the environment in the server's spelling
	tasks       tasks
	actions     actions
	concurrency *semaphore.Weighted
}

var _ envs.Family = (*Family)(nil)

// Open reads the server's environments, splits and tools, and starts the first
// episode as a test. If the server has another protocol, or lacks the environment,
// a split, a task or the tool, the error has a hint.
func Open(ctx context.Context, c Config) (*Family, error) {
	if c.Concurrency == 0 {
		c.Concurrency = 8
	}
	if c.Concurrency < 0 {
		return nil, fmt.Errorf("ors: concurrency = %d is negative", c.Concurrency)
	}
	client, err := exchange.New(c.Server)
	if err != nil {
		return nil, fmt.Errorf("ors: %w", err)
	}
	f := &Family{config: c, client: client, concurrency: semaphore.NewWeighted(int64(c.Concurrency))}
	if err := f.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("ors: %w", err), f.Close())
	}
	return f, nil
}

// probe checks that the server speaks the protocol, and reads its tools and tasks.
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

// choose finds the environment on the server. The server ignores the case of
// names.
func (f *Family) choose(ctx context.Context) (string, error) {
	r := f.request("/list_environments", nil, "")
	r.Prompt = true
	raw, err := f.client.Do(ctx, r)
	var names []string
	var failure *jsonhttp.Error
	switch {
	case !errors.As(err, &failure):
	case failure.Kind == jsonhttp.Unreached:
		return "", fmt.Errorf("%w\n  hint: start the environment's server, or correct the url", err)
	case failure.Status == http.StatusUnauthorized || failure.Status == http.StatusForbidden:
		return "", fmt.Errorf("%w\n  hint: check the key", err)
	case failure.Kind == jsonhttp.Refused || failure.Kind == jsonhttp.Malformed:
		return "", fmt.Errorf("%w\n  hint: %s", err, f.client.Recognize(ctx, "ors"))
	}
	switch {
	case err != nil:
		return "", err
	case json.Unmarshal(raw, &names) != nil || len(names) == 0:
		return "", fmt.Errorf("the answer to GET /list_environments is not a list of names\n  hint: %s",
			f.client.Recognize(ctx, "ors"))
	case f.config.Environment == "" && len(names) == 1:
		return names[0], nil
	}
	for _, name := range names {
		if strings.EqualFold(name, f.config.Environment) {
			return name, nil
		}
	}
	return "", fmt.Errorf("no environment %q\n  hint: environment = %q, or another of %q",
		f.config.Environment, names[0], names)
}

// path is a path of the environment.
func (f *Family) path(suffix string) string {
	return (&url.URL{Path: "/" + f.env + suffix}).EscapedPath()
}

// request adds the headers of the protocol.
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

// ask sends a request outside of any session.
func (f *Family) ask(ctx context.Context, path string, body, answer any) error {
	r := f.request(path, body, "")
	r.Repeatable = true
	raw, err := f.client.Do(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("%s: the answer is not in the format of ORS: %w", path, safetext.JSONError(err))
	}
	return nil
}

// Name implements [envs.Family].
func (f *Family) Name() string { return "ors" }

// Tasks implements [envs.Family]. There is a task for each number.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	tasks, err := f.tasks.of(split)
	if err != nil {
		return nil, fmt.Errorf("ors: %w", err)
	}
	return tasks, nil
}

// Open implements [envs.Family]. It waits while too many episodes are open.
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	at, ok := f.tasks.places[t.ID]
	if !ok {
		return nil, fmt.Errorf("ors: unknown task %q\n  hint: tasks are SPLIT-NUMBER", t.ID)
	}
	if err := f.concurrency.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("ors: open %s: %w", t.ID, context.Cause(ctx))
	}
	return envs.Guard(&episode{family: f, at: at, open: true}), nil
}

// Close implements [envs.Family].
func (f *Family) Close() error {
	f.client.Close()
	return nil
}
