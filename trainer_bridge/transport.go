package trainerbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/go-resty/resty/v2"
	"github.com/rs/zerolog"
)

// maxAnswer bounds the body of one answer in bytes.
const maxAnswer = 512 << 20

type roundTripCloser interface {
	http.RoundTripper
	CloseIdleConnections()
}

// newTransport keeps idle connections open, as many as calls are usual at once.
func newTransport(idle int) *http.Transport {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns:        idle,
		MaxIdleConnsPerHost: idle,
		IdleConnTimeout:     90 * time.Second,
		WriteBufferSize:     64 << 10,
		ReadBufferSize:      64 << 10,
	}
}

// A link is how one trainer is spoken to. It is safe for concurrent use.
type link struct {
	http   *resty.Client
	answer time.Duration // bounds one exchange
	log    zerolog.Logger
}

func newLink(url, token string, answer time.Duration, log zerolog.Logger, transport http.RoundTripper) link {
	c := resty.NewWithClient(&http.Client{Transport: transport}).
		SetBaseURL(url).
		SetHeader("Content-Type", "application/json").
		SetHeader("Accept", "application/json").
		SetHeader("User-Agent", "empo2").
		SetResponseBodyLimit(maxAnswer).
		SetDisableWarn(true)
	if token != "" {
		c.SetAuthToken(token).SetHeader("X-API-Key", token)
	}
	return link{http: c, answer: answer, log: log}
}

// call posts a body and reads the answer into result. It repeats the same
// bytes after a lost connection, a late answer and a status that promises
// better luck, until ctx ends.
func (l link) call(ctx context.Context, op string, body, result any) error {
	raw, err := l.post(ctx, op, op, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("%s: read the trainer's answer: %w", op, err)
	}
	return nil
}

// result waits for the result of a submitted request and reads it.
func (c *Client) result(ctx context.Context, op, id string, result any) error {
	raw, err := c.await(ctx, op, id)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("%s: read the trainer's answer: %w", op, err)
	}
	return nil
}

// await long-polls for the result of a submitted request.
func (c *Client) await(ctx context.Context, op, id string) (json.RawMessage, error) {
	body := map[string]any{"request_id": id, "allow_metadata_only": false}
	for {
		raw, err := c.post(ctx, op, "retrieve_future", body)
		if err != nil {
			return nil, lostResult(err)
		}
		var f future
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, fmt.Errorf("%s: read the trainer's answer: %w", op, err)
		}
		switch {
		case f.Error != nil:
			if f.Category != CategoryUser && f.Category != CategoryServer {
				f.Category = CategoryUnknown
			}
			return nil, &RequestError{Op: op, Category: f.Category, Message: *f.Error}
		case f.Type != "try_again":
			return raw, nil
		}
		if ctx.Err() != nil {
			return nil, unavailable(ctx, op, nil)
		}
	}
}

// lostResult: a trainer that does not know a request it accepted was
// restarted or has forgotten it; the work may have been done.
func lostResult(err error) error {
	var refused *RequestError
	if errors.As(err, &refused) && (refused.Status == 404 || refused.Status == 410) {
		return fmt.Errorf("%w: the trainer no longer knows the request (%w)", ErrUnavailable, err)
	}
	return err
}

// post repeats one exchange with growing pauses.
func (l link) post(ctx context.Context, op, path string, body any) (json.RawMessage, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("%s: encode: %w", op, err)
	}
	pause := 50 * time.Millisecond
	for {
		raw, again, err := l.once(ctx, op, path, encoded)
		if err == nil {
			return raw, nil
		}
		if again < 0 {
			return nil, err
		}
		if ctx.Err() == nil && path != "retrieve_future" {
			l.log.Warn().Err(err).Str("op", op).Msg("trainer: sending the request again")
		}
		if !sleep(ctx, max(pause, again)) {
			return nil, unavailable(ctx, op, err)
		}
		pause = min(2*pause, 4*time.Second)
	}
}

// once is one HTTP exchange. If it failed, again is the least pause before it
// may be repeated, negative if repeating it is of no use.
func (l link) once(ctx context.Context, op, path string, body []byte) (raw json.RawMessage, again time.Duration, err error) {
	late := fmt.Errorf("%s: no answer within %v", path, l.answer)
	ctx, cancel := context.WithTimeoutCause(ctx, l.answer, late)
	defer cancel()
	resp, err := l.http.R().SetContext(ctx).SetBody(body).Post("/api/v1/" + path)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, 0, err
	}
	status := resp.StatusCode()
	switch {
	case status < 300:
		return resp.Body(), 0, nil
	case status == 408 && path == "retrieve_future":
		return json.RawMessage(`{"type":"try_again"}`), 0, nil // a long poll that ended empty
	case status == 408 || status == 429 || status >= 500:
		return nil, retryAfter(resp.Header()), refusal(op, resp)
	}
	return nil, -1, refusal(op, resp)
}

// retryAfter is the pause a server asks for, a minute at most.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseFloat(h.Get("Retry-After"), 64)
	if err != nil || !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, 60) * float64(time.Second))
}

// refusal turns an HTTP error into a RequestError.
func refusal(op string, resp *resty.Response) error {
	e := &RequestError{Op: op, Status: resp.StatusCode(), Category: CategoryUser}
	if e.Status >= 500 {
		e.Category = CategoryServer
	}
	var body errorBody
	var detail string
	switch {
	case json.Unmarshal(resp.Body(), &body) != nil:
		e.Message = resp.Status()
	case json.Unmarshal(body.Detail, &detail) == nil:
		e.Message = detail
	case len(body.Detail) > 0:
		e.Message = string(body.Detail)
	case body.Error != "":
		e.Message = body.Error
	default:
		e.Message = resp.Status()
	}
	return e
}

// unavailable says that an operation ended without an answer: because ctx
// ended, and what went wrong last.
func unavailable(ctx context.Context, op string, last error) error {
	cause := context.Cause(ctx)
	var exit *ExitError
	switch {
	case errors.As(cause, &exit):
		return fmt.Errorf("%s: %w", op, cause)
	case errors.Is(cause, context.Canceled):
		return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, cause)
	case last == nil || errors.Is(last, cause):
		return fmt.Errorf("%w: %w", ErrUnavailable, cause)
	case cause == nil:
		return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, last)
	}
	return fmt.Errorf("%w: %w (last: %v)", ErrUnavailable, cause, last)
}

// sleep pauses and reports whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
