package openai

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// maxAnswer is the largest answer in bytes.
const maxAnswer = 16 << 20

type client struct {
	web     *jsonhttp.Client
	log     zerolog.Logger
	pause   time.Duration // before the first retry
	onRetry func()        // called before each retry; may be nil
}

func newClient(base string, cfg Config) (*client, error) {
	web, err := jsonhttp.New(jsonhttp.Config{
		URL: base, Server: "an OpenAI-compatible server", Key: cfg.APIKey, MaxAnswer: maxAnswer,
		ErrorsInAnswers: true,
		Transport:       jsonhttp.NewTransport(cfg.MaxInFlight),
	})
	return &client{web: web, log: cfg.Log, pause: 100 * time.Millisecond}, err
}

func (c *client) close() { c.web.Close() }

const (
	keyHint   = "the API key is missing or wrong; it is taken from EMPO2_SERVER_KEY"
	urlHint   = "set sampler.openai.url to the base URL of the server's API, which often ends with /v1"
	limitHint = "the server limits requests: lower sampler.concurrency, wait, or look whether a quota is used up; " +
		"sampler.timeout_seconds bounds how long a request is repeated"
	runHint = "check that the server is running at the address in sampler.openai.url"
)

// hint returns the remedy for an error; empty: none is known.
func hint(e *jsonhttp.Error) string {
	switch {
	case e.Redirected:
		return e.Remedy("EMPO2_SERVER_KEY", "sampler.openai.url")
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden:
		return keyHint
	case e.Status == http.StatusTooManyRequests:
		return limitHint
	case e.Status == http.StatusNotFound && e.Code == "" && e.Type == "": // not an answer of the API
		return urlHint
	case e.Kind == jsonhttp.Malformed && !e.Truncated:
		return urlHint
	case e.Kind == jsonhttp.Unreached, e.Kind == jsonhttp.Lost && e.Status == 0:
		return runHint
	}
	return ""
}

const maxTries = 8

// call sends body, or a GET request if body is nil, and decodes the answer into
// out. It retries after a lost connection, an incomplete answer and a temporary
// error of the server, until ctx ends.
func (c *client) call(ctx context.Context, path string, body, out any) error {
	retry := jsonhttp.Retry{
		First: c.pause, Last: 10 * time.Second, LongestAfter: 24 * time.Hour, Factor: 3,
		Attempts: maxTries, Again: retryable,
		Before: func(_ int, pause time.Duration, err error) {
			c.log.Warn().Err(err).Stringer("pause", pause).Msg("openai: sending the request again")
			if c.onRetry != nil {
				c.onRetry()
			}
		},
	}
	return retry.Do(ctx, func(ctx context.Context) error { return c.once(ctx, path, body, out) })
}

func retryable(err error) bool {
	status := jsonhttp.Status(err)
	return jsonhttp.Retryable(err) || status >= 500 && status != http.StatusNotImplemented
}

func (c *client) once(ctx context.Context, path string, body, out any) error {
	err := c.web.Call(ctx, jsonhttp.Request{Path: path, Body: body}, out)
	var e *jsonhttp.Error
	if errors.As(err, &e) && hint(e) != "" {
		return fmt.Errorf("%w\n  hint: %s", err, hint(e))
	}
	return err
}

// modelList is a server's list of models; empty if it has none.
type modelList struct {
	Data []struct {
		ID     string `json:"id"`
		Length int    `json:"max_model_len"` // the context, given by vLLM
	} `json:"data"`
}

func (m modelList) context(model string) int {
	for _, served := range m.Data {
		if served.ID == model {
			return served.Length
		}
	}
	return 0
}

func (m modelList) names() []string {
	var names []string
	for _, served := range m.Data {
		names = append(names, served.ID)
	}
	slices.Sort(names)
	return names
}

// has reports whether the list has a model, or is empty.
func (m modelList) has(model string) bool {
	names := m.names()
	return len(names) == 0 || slices.Contains(names, model) || slices.Contains(names, model+":latest")
}

// checkAnswering refuses a server that ignores the name of a model which it does not list, and answers with one that it
// lists. If it answers with any other name than was asked for, checkAnswering warns: proxies and dated versions do so.
func (b *Backend) checkAnswering() error {
	answered, asked := b.Stats().Model, b.cfg.Model
	if answered == "" || strings.Contains(answered, asked) || strings.Contains(asked, answered) {
		return nil
	}
	if !b.listed.has(asked) && b.listed.has(answered) {
		return fmt.Errorf("the server has no model %q and answers with %q\n  the server has: %s\n"+
			"  hint: set sampler.served_model_name", asked, answered, strings.Join(b.listed.names(), ", "))
	}
	b.cfg.Log.Warn().Msgf("openai: the model %q answers, %q was asked for", answered, asked)
	return nil
}

// models lists the served models. The list is empty if the server has no such list
// or is busy. models does not retry, because the next request shows whether the
// server answers.
func (c *client) models(ctx context.Context) (list modelList, err error) {
	err = c.once(ctx, "/models", nil, &list)
	switch jsonhttp.Status(err) {
	case 0, http.StatusUnauthorized, http.StatusForbidden:
		return list, err
	}
	return modelList{}, nil
}
