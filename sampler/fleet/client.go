package fleet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
)

// A Client implements the methods of a [Server] that are equal for vLLM and
// SGLang: health and the list of models.
type Client struct {
	*HTTP
	Child *process.Service // the process if the backend started it; else nil
}

// defaultMaxInFlight is the default of Config.MaxInFlight.
const defaultMaxInFlight = 64

// NewClient makes a client for maxInFlight requests, and health checks, at the
// same time; 0: the default of Config.MaxInFlight.
func NewClient(url, key string, maxInFlight int) *Client {
	if maxInFlight == 0 {
		maxInFlight = defaultMaxInFlight
	}
	return &Client{HTTP: NewHTTP(url, key, maxInFlight+8)}
}

// Close closes connections and stops the process.
func (c *Client) Close() error {
	c.HTTP.Close()
	if c.Child != nil {
		return c.Child.Close()
	}
	return nil
}

// Launch starts the server's process and keeps it running until Close, within a
// budget. restarted, if not nil, is called before each restart with the URL and the
// reason.
func (c *Client) Launch(ctx context.Context, command process.Command, budget process.Budget,
	restarted func(url string, why error)) (err error) {
	if restarted != nil {
		budget.Report = func(why error) { restarted(c.URL(), why) }
	}
	c.Child, err = process.Keep(ctx, command, budget)
	return err
}

// Ready returns nil if the server says that it is healthy.
func (c *Client) Ready(ctx context.Context) error { return c.Call(ctx, "/health", nil, nil) }

// Health checks the process, if there is one, and the server.
func (c *Client) Health(ctx context.Context) error {
	if c.Child != nil {
		if err := c.Child.Err(); err != nil {
			return err
		}
	}
	return c.Ready(ctx)
}

// Restarted implements [Restarter].
func (c *Client) Restarted(ctx context.Context) error {
	if c.Child == nil {
		return errors.ErrUnsupported
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for c.Health(ctx) != nil {
		select {
		case <-tick.C:
		case <-c.Child.Done():
			return c.Child.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// A Model is an entry of the list of models.
type Model struct {
	ID      string  `json:"id"`
	Root    string  `json:"root"`   // the path or name that the server loaded it from
	Parent  *string `json:"parent"` // of an adapter
	Context int     `json:"max_model_len"`
}

// Models lists the base models and the adapters.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	var list struct {
		Data []Model `json:"data"`
	}
	err := c.Call(ctx, "/v1/models", nil, &list)
	return list.Data, err
}

// Adapters lists the models that have a parent.
func (c *Client) Adapters(ctx context.Context) (map[string]string, error) {
	list, err := c.Models(ctx)
	if err != nil {
		return nil, err
	}
	adapters := map[string]string{}
	for _, m := range list {
		if m.Parent != nil {
			adapters[m.ID] = m.Root
		}
	}
	return adapters, nil
}

// Logprob is a log-prob of an answer, NaN if the server gave none.
func Logprob(value *float32) float32 {
	if value == nil {
		return float32(math.NaN())
	}
	return *value
}

// WithHint adds the remedy of the first hint that fits the server's message.
func WithHint(err error, hints []process.Hint) error {
	if remedy := process.HintFor(jsonhttp.ServerText(err), hints); remedy != "" {
		return fmt.Errorf("%w\n  hint: %s", err, remedy)
	}
	return err
}

// Finish translates the finish_reason of a server. It is empty for other reasons
// than stop and length.
func Finish(reason string) sampler.FinishReason {
	switch reason {
	case "stop":
		return sampler.FinishStop
	case "length":
		return sampler.FinishLength
	}
	return ""
}
