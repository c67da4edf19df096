package llamacpp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-resty/resty/v2"
)

// maxAnswer bounds an answer, in bytes; a token with its log-prob needs some
// 200.
const maxAnswer = 64 << 20

// idleConnection is shorter than the server's own 5 seconds, after which it
// closes a connection that we may be about to use.
const idleConnection = 3 * time.Second

// client speaks with one server.
type client struct {
	http      *resty.Client
	transport *http.Transport
}

func newClient(at endpoint, connections int) *client {
	transport := &http.Transport{
		Proxy:               nil, // the loopback is never proxied
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     idleConnection,
		DisableCompression:  true,
	}
	return &client{transport: transport, http: resty.New().
		SetBaseURL(at.Address).SetTransport(transport).SetResponseBodyLimit(maxAnswer).
		SetHeader("Authorization", "Bearer "+at.Key)}
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// apiError is an answer that says what is wrong with the request.
type apiError struct {
	Status  int
	Type    string `json:"type"`
	Message string `json:"message"`
}

func (e *apiError) Error() string {
	return fmt.Sprintf("the server answers %d %s: %s", e.Status, e.Type, e.Message)
}

// errLost is wrapped by errors after which the request may be sent again:
// nothing was answered.
var errLost = errors.New("connection to llama-server lost")

// call sends body (GET if nil) and decodes the answer into out.
func (c *client) call(ctx context.Context, path string, body, out any) error {
	method, request := http.MethodGet, c.http.R().SetContext(ctx)
	if body != nil {
		method = http.MethodPost
		request.SetBody(body)
	}
	response, err := request.Execute(method, path)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, resty.ErrResponseBodyTooLarge):
		return fmt.Errorf("%s: %w", path, err)
	case err != nil:
		return fmt.Errorf("%w: %w", errLost, err)
	case response.StatusCode() == http.StatusServiceUnavailable:
		return fmt.Errorf("%w: %w", errLost, refusal(response))
	case response.IsError():
		return refusal(response)
	}
	if err := json.Unmarshal(response.Body(), out); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %w", errLost, err)
		}
		return fmt.Errorf("%s: not an answer of llama-server: %w", path, err)
	}
	return nil
}

func refusal(r *resty.Response) error {
	answer := struct {
		Error apiError `json:"error"`
	}{}
	if json.Unmarshal(r.Body(), &answer) != nil || answer.Error.Message == "" {
		answer.Error.Message = fmt.Sprintf("%.200q", r.Body())
	}
	answer.Error.Status = r.StatusCode()
	return &answer.Error
}

// health is nil if the server says that it is well.
func (c *client) health(ctx context.Context) error {
	var answer struct{}
	return c.call(ctx, "/health", nil, &answer)
}

// tokenize encodes text without adding anything. Only if special is true do
// control tokens in it become their ids.
func (c *client) tokenize(ctx context.Context, text string, special bool) ([]int32, error) {
	answer := struct {
		Tokens []int32 `json:"tokens"`
	}{}
	body := map[string]any{"content": text, "add_special": false, "parse_special": special}
	err := c.call(ctx, "/tokenize", body, &answer)
	return answer.Tokens, err
}
