package trainerbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// Bounds of the body of one answer in bytes.
const (
	maxAnswer   = 512 << 20 // whatever was asked
	smallAnswer = 1 << 20   // without values for each token
)

// A link is the connection to one trainer. It is safe for concurrent use.
type link struct {
	http *jsonhttp.Client
	log  zerolog.Logger
}

// newLink prepares calls to a trainer. One HTTP exchange may take as long as
// answer.
func newLink(url, token string, answer time.Duration, log zerolog.Logger, transport http.RoundTripper) (link, error) {
	c, err := jsonhttp.New(jsonhttp.Config{
		URL: url, Server: "a trainer", Key: token, KeyHeaders: []string{"X-API-Key"},
		Timeout: answer, MaxAnswer: maxAnswer, Transport: transport,
	})
	return link{http: c, log: log}, err
}

// call posts a body and reads the answer into result. It repeats the same bytes
// after a lost connection, a late answer or a temporary status, until ctx ends.
func (l link) call(ctx context.Context, op string, body, result any) error {
	raw, err := l.post(ctx, op, op, body, smallAnswer)
	if err != nil {
		return err
	}
	return decode(op, raw, result)
}

// decode reads the answer to an operation.
func decode(op string, raw json.RawMessage, result any) error {
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("%s: read the trainer's answer: %w", op, safetext.JSONError(err))
	}
	return nil
}

// result waits for the result of a submitted request and reads it.
func (c *Client) result(ctx context.Context, op, id string, result any) error {
	raw, err := c.await(ctx, op, id, smallAnswer, 0)
	if err != nil {
		return err
	}
	return decode(op, raw, result)
}

// await long-polls for the result of a submitted request, which is a part of a call. The
// result has bound bytes at most.
func (c *Client) await(ctx context.Context, op, id string, bound int64, part int) (json.RawMessage, error) {
	body := map[string]any{"request_id": id, "allow_metadata_only": false}
	for {
		raw, err := c.post(ctx, op, "retrieve_future", body, bound)
		if err != nil {
			return nil, c.failedResult(lostResult(err))
		}
		var f future
		if err := decode(op, raw, &f); err != nil {
			return nil, err
		}
		switch {
		case string(raw) == "null":
			return nil, fmt.Errorf("%s: the trainer's answer is null%s", op, otherHint)
		case f.Detail != nil || f.Message != nil:
			return nil, fmt.Errorf("%s: the trainer's answer is an error: %.200q%s", op, c.http.Clean(string(raw)), otherHint)
		case f.Error != nil:
			if f.Category != CategoryUser && f.Category != CategoryServer {
				f.Category = CategoryUnknown
			}
			return nil, &RequestError{Op: op, Category: f.Category, Message: inKeys(c.http.Clean(*f.Error)),
				OutOfMemory: f.OutOfMemory}
		case f.Type != "try_again":
			return raw, nil
		}
		if ctx.Err() != nil {
			return nil, unavailable(ctx, op, nil)
		}
		tellRows(ctx, part, f.Rows)
	}
}

// lostResult handles an answer about an unknown request that the trainer had
// accepted. The trainer was restarted or has forgotten the request. The work may
// have been done.
func lostResult(err error) error {
	var refused *RequestError
	if errors.As(err, &refused) && (refused.Status == 404 || refused.Status == 410) {
		// Without the RequestError, which says that a restart does not help.
		return fmt.Errorf("%w: the trainer no longer knows the request (%s)", ErrUnavailable, refused.Message)
	}
	return err
}

// failedResult handles a trainer that reports the failure of a request as the status 400.
func (c *Client) failedResult(err error) error {
	var refused *RequestError
	if c.cfg.Deviations.FailuresAre400 && errors.As(err, &refused) && refused.Status == http.StatusBadRequest {
		return &RequestError{Op: refused.Op, Category: CategoryUnknown, Message: refused.Message}
	}
	return err
}

// post makes an exchange and repeats it after temporary errors, until ctx ends.
func (l link) post(
	ctx context.Context, op, path string, body any, bound int64,
) (raw json.RawMessage, err error) {
	return l.repeat(ctx, op, path, body, bound, again)
}

// postOnce is post for a trainer that may execute a repeated request again. It only repeats a request that
// surely did not reach the trainer.
func (l link) postOnce(ctx context.Context, op string, body any) (json.RawMessage, error) {
	return l.repeat(ctx, op, op, body, smallAnswer, func(err error) bool {
		var e *jsonhttp.Error
		return errors.As(err, &e) && (e.Kind == jsonhttp.Unreached || e.Kind == jsonhttp.Busy)
	})
}

// repeat makes an exchange and repeats it while may allows it, until ctx ends.
func (l link) repeat(
	ctx context.Context, op, path string, body any, bound int64, may func(error) bool,
) (raw json.RawMessage, err error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("%s: encode: %w", op, err)
	}
	retry := jsonhttp.Retry{
		First: 50 * time.Millisecond, Last: 4 * time.Second, Again: may,
		Before: func(_ int, _ time.Duration, err error) {
			if path != "retrieve_future" {
				l.log.Warn().Err(err).Str("op", op).Msg("trainer: sending the request again")
			}
		},
	}
	var last error
	err = retry.Do(ctx, func(ctx context.Context) error {
		raw, last = l.once(ctx, path, encoded, bound)
		return last
	})
	switch {
	case err == nil:
		return raw, nil
	case again(last):
		return nil, unavailable(ctx, op, refusal(op, last))
	}
	return nil, refusal(op, last)
}

// again reports whether an exchange may succeed if it is repeated. A request has
// a number, so the trainer never executes it twice.
func again(err error) bool {
	return jsonhttp.Retryable(err) || jsonhttp.Status(err) >= 500
}

// once makes one exchange.
func (l link) once(ctx context.Context, path string, body []byte, bound int64) (raw json.RawMessage, err error) {
	err = l.http.Call(ctx, jsonhttp.Request{Path: "/api/v1/" + path, Body: body, MaxAnswer: bound}, &raw)
	if path == "retrieve_future" && jsonhttp.Status(err) == http.StatusRequestTimeout {
		return json.RawMessage(`{"type":"try_again"}`), nil // a long poll that ended without a result
	}
	return raw, err
}

// refusal turns an error status into a RequestError. It adds the operation to
// every other error.
func refusal(op string, err error) error {
	var e *jsonhttp.Error
	switch {
	case !errors.As(err, &e):
		return err
	case e.Kind == jsonhttp.Malformed:
		return fmt.Errorf("%s: read the trainer's answer: %w%s", op, err, otherHint)
	case e.Redirected:
		return fmt.Errorf("%s: the trainer: %w%s", op, err, otherHint)
	case jsonhttp.Status(err) == 0:
		return err
	}
	refused := &RequestError{Op: op, Status: e.Status, Category: CategoryUser, Message: inKeys(e.Message)}
	if e.Status >= 500 {
		refused.Category = CategoryServer
	}
	if e.Message == "" {
		refused.Message = fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	}
	return refused
}

// otherHint is the remedy for answers that no trainer gives.
const otherHint = "\n  hint: another program answers at the trainer's address, or a proxy is in between"

// unavailable returns the error of an operation that ended without an answer. It
// contains the reason why ctx ended and the last error.
func unavailable(ctx context.Context, op string, last error) error {
	cause := context.Cause(ctx)
	var exit *ExitError
	switch {
	case errors.As(cause, &exit):
		return fmt.Errorf("%s: %w", op, cause)
	case errors.Is(cause, context.Canceled):
		return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, cause)
	case cause == nil:
		return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, last)
	case last == nil || errors.Is(last, cause):
		return fmt.Errorf("%w: %w", ErrUnavailable, cause)
	}
	return fmt.Errorf("%w: %w (last: %v)", ErrUnavailable, cause, last)
}
