package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-resty/resty/v2"
	"github.com/rs/zerolog"
)

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 16 << 20

type client struct {
	base      string
	http      *resty.Client
	transport *http.Transport
	log       zerolog.Logger
	pause     time.Duration // before the first repeat
	again     func()        // told of every repeat; may be nil
}

func newClient(base string, cfg Config) *client {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        cfg.MaxInFlight,
		MaxIdleConnsPerHost: cfg.MaxInFlight,
		IdleConnTimeout:     30 * time.Second,
	}
	web := resty.New().SetBaseURL(base).SetTransport(transport).SetResponseBodyLimit(maxAnswer).
		SetHeader("User-Agent", "empo2").SetDisableWarn(true)
	if cfg.APIKey != "" {
		web.SetAuthToken(cfg.APIKey)
	}
	return &client{base: base, http: web, transport: transport, log: cfg.Log, pause: 100 * time.Millisecond}
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// apiError is an answer that says what is wrong with the request.
type apiError struct {
	Status  int
	Code    string
	Message string
}

func (e *apiError) Error() string {
	text := fmt.Sprintf("the server answers %d: %s", e.Status, e.Message)
	switch {
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden:
		text += "\n  hint: the API key is missing or wrong; it is taken from EMPO2_SERVER_KEY"
	case e.Status == http.StatusNotFound && e.Code == "": // not the interface's own word
		text += "\n  hint: set sampler.openai.url to the server's base, with /v1 if its interface is there"
	}
	return text
}

// lost is a failure after which the same request may be sent again.
type lost struct {
	after time.Duration // what the server asks for; 0: nothing
	err   error
}

func (l *lost) Error() string { return l.err.Error() }
func (l *lost) Unwrap() error { return l.err }

const maxTries = 8

// call sends body (GET if nil) and decodes the answer into out. It repeats
// after a lost connection, a broken answer and a status that promises better
// luck, as long as ctx allows.
func (c *client) call(ctx context.Context, path string, body, out any) error {
	pause := c.pause
	for tries := 1; ; tries++ {
		err := c.once(ctx, path, body, out)
		var l *lost
		if err == nil || !errors.As(err, &l) || tries == maxTries {
			return err
		}
		wait := max(pause, l.after)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
			return fmt.Errorf("%w (the next try would be in %v, after the deadline)", err, wait)
		}
		c.log.Warn().Err(err).Dur("pause", wait).Msg("openai: sending the request again")
		if c.again != nil {
			c.again()
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		}
		pause = min(3*pause, 10*time.Second)
	}
}

func (c *client) once(ctx context.Context, path string, body, out any) error {
	method, request := http.MethodGet, c.http.R().SetContext(ctx)
	if body != nil {
		method = http.MethodPost
		request.SetHeader("Content-Type", "application/json").SetBody(body)
	}
	response, err := request.Execute(method, path)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, resty.ErrResponseBodyTooLarge):
		return fmt.Errorf("%s: %w", path, err)
	case err != nil:
		return &lost{err: fmt.Errorf("%w\n  hint: is the server running there? sampler.openai.url names the address", err)}
	case response.IsError():
		return refusal(response)
	}
	err = json.Unmarshal(response.Body(), out)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF), len(response.Body()) == 0, strings.Contains(err.Error(), "unexpected end"):
		return &lost{err: fmt.Errorf("%s: the answer breaks off", path)}
	}
	return fmt.Errorf("%s: not an answer of an OpenAI-compatible server: %.80q\n  hint: set sampler.openai.url to the server's base, with /v1 if its interface is there", path, response.Body())
}

// refusal is the error of a status, with the server's own words.
func refusal(r *resty.Response) error {
	var answer struct {
		Error struct {
			Message string `json:"message"`
			Code    any    `json:"code"` // a string, a number or null
			Type    string `json:"type"`
		} `json:"error"`
		Message string `json:"message"` // some servers put it here, or into detail
		Detail  any    `json:"detail"`
	}
	e := &apiError{Status: r.StatusCode()}
	if json.Unmarshal(r.Body(), &answer) == nil {
		e.Message = answer.Error.Message
		if e.Message != "" {
			e.Code = fmt.Sprint(answer.Error.Code, " ", answer.Error.Type)
		}
		if e.Message == "" {
			e.Message = answer.Message
		}
		if e.Message == "" && answer.Detail != nil {
			e.Message = fmt.Sprint(answer.Detail)
		}
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("%.200q", r.Body())
	}
	switch {
	case e.Status == http.StatusRequestTimeout, e.Status == http.StatusTooManyRequests, e.Status >= 500 && e.Status != http.StatusNotImplemented:
		return &lost{after: retryAfter(r.Header().Get("Retry-After")), err: e}
	}
	return e
}

// retryAfter is the pause that a server asks for, in seconds or as a date.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseFloat(header, 64); err == nil && seconds > 0 && seconds < 1e6 {
		return time.Duration(seconds * float64(time.Second))
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// modelList is what a server tells of its models; empty if it tells nothing.
type modelList struct {
	Data []struct {
		ID     string `json:"id"`
		Length int    `json:"max_model_len"` // vLLM tells the context
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

// check refuses a model that the server does not list: some servers answer
// with another one, whatever they are asked for.
func (m modelList) check(model string) error {
	names := m.names()
	if len(names) == 0 || slices.Contains(names, model) || slices.Contains(names, model+":latest") {
		return nil
	}
	return fmt.Errorf("the server has no model %q\n  the server has: %s\n  hint: set sampler.served_model_name", model, strings.Join(names, ", "))
}

// models lists what is served. Not every server offers that, and one that is
// busy is asked again by what follows.
func (c *client) models(ctx context.Context) (list modelList, err error) {
	err = c.once(ctx, "/models", nil, &list)
	var refused *apiError
	if errors.As(err, &refused) && refused.Status != http.StatusUnauthorized && refused.Status != http.StatusForbidden {
		return modelList{}, nil
	}
	return list, err
}
