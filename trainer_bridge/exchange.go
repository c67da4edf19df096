package trainerbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// train runs a forward or forward_backward over rows and merges the results. It
// sends several requests if the rows exceed the limits of one.
func (c *Client) train(ctx context.Context, op string, rows []Row, loss Loss) (Stats, [][]float32, error) {
	if err := checkRows(rows); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", op, err)
	}
	data := make([]datum, len(rows))
	for i, r := range rows {
		data[i] = newDatum(r, loss.Name)
	}
	parts := split(data)
	requests := make([]request, len(parts))
	for i, part := range parts {
		in := lossInput{Data: part, Loss: loss}
		requests[i] = func(seq int64) any {
			if op == "forward" {
				return forwardRequest{ModelID: c.model, SeqID: seq, Input: in}
			}
			return forwardBackwardRequest{ModelID: c.model, SeqID: seq, Input: in}
		}
	}
	var stats []Stats
	var weights []float64
	var logprobs [][]float32
	err := c.exchange(splitInto(ctx, parts), op, requests, largest(parts), func(i int, raw json.RawMessage) error {
		var out lossOutput
		if err := json.Unmarshal(raw, &out); err != nil {
			return err
		}
		got, err := out.logprobs(parts[i])
		stats, weights = append(stats, out.Metrics.stats()), append(weights, float64(len(parts[i])))
		logprobs = append(logprobs, got...)
		return err
	})
	if err != nil {
		return nil, nil, inCall(err, parts)
	}
	return MergeStats(stats, weights), logprobs, nil
}

// largest bounds the answer to one of the parts in bytes.
func largest(parts [][]datum) int64 {
	most := 0
	for _, part := range parts {
		size := 0
		for _, d := range part {
			size += bytesPerRow + bytesPerLogprob*d.LossFnInputs["target_tokens"].Shape[0]
		}
		most = max(most, size)
	}
	return smallAnswer + int64(most)
}

// The size of the log-probs of a row in an answer, at most.
const (
	bytesPerRow     = 1 << 10
	bytesPerLogprob = 40
)

// inCall numbers the row of an out-of-memory error among all rows of the call.
func inCall(err error, parts [][]datum) error {
	var refused *RequestError
	if errors.As(err, &refused) && refused.OutOfMemory != nil {
		for _, part := range parts[:refused.OutOfMemory.part] {
			refused.OutOfMemory.Row += len(part)
		}
		refused.OutOfMemory.part = 0
	}
	return err
}

// maxLogprob allows for rounding above 0 in low precision.
const maxLogprob = 0.1

// logprobs returns the log-probs of a result, after a check of their number and
// values.
func (o lossOutput) logprobs(asked []datum) ([][]float32, error) {
	if len(o.Outputs) != len(asked) {
		return nil, fmt.Errorf("%d outputs for %d rows", len(o.Outputs), len(asked))
	}
	all := make([][]float32, len(asked))
	for i, out := range o.Outputs {
		data, want := out.Logprobs.Data, asked[i].LossFnInputs["target_tokens"].Shape[0]
		if len(data) != want {
			return nil, fmt.Errorf("row %d: %d log-probs for %d targets", i, len(data), want)
		}
		all[i] = make([]float32, want)
		for t, v := range data {
			if v == nil || math.IsInf(float64(*v), 0) {
				return nil, fmt.Errorf("row %d: log-prob %d is not a number", i, t)
			}
			if *v > maxLogprob {
				return nil, fmt.Errorf("row %d: log-prob %d is %v, which is positive", i, t, *v)
			}
			all[i][t] = *v
		}
	}
	return all, nil
}

// one exchanges a single request for its result.
func (c *Client) one(ctx context.Context, op string, build request, result any) error {
	return c.exchange(ctx, op, []request{build}, smallAnswer, func(_ int, raw json.RawMessage) error {
		return json.Unmarshal(raw, result)
	})
}

// A request builds a body once its sequence number is known.
type request func(seq int64) any

// exchange submits all requests, so that the trainer need not wait for the
// network between them. Then it collects their results in order.
func (c *Client) exchange(
	ctx context.Context, op string, requests []request, bound int64, collect func(int, json.RawMessage) error,
) (err error) {
	ctx, end, err := c.begin(ctx, op)
	if err != nil {
		return err
	}
	defer end()
	defer func() { err = c.orForgotten(ctx, op, err) }()
	if c.uncertain != nil && op != "load_weights" {
		return fmt.Errorf("%s: %w (%w)", op, ErrUncertain, c.uncertain)
	}
	if c.cfg.Deviations.NoOrder { // each is waited for before the next
		return c.oneByOne(ctx, op, requests, bound, collect)
	}
	var ids []string
	for _, build := range requests {
		id, submitErr := c.submit(ctx, op, build)
		if submitErr != nil {
			err = submitErr
			break
		}
		if slices.Contains(ids, id) {
			err = fmt.Errorf("%s: the trainer gives two requests the request_id %q", op, id)
			break
		}
		ids = append(ids, id)
	}
	for i, id := range ids {
		raw, resultErr := c.await(ctx, op, id, bound, i)
		var refused *RequestError
		if errors.As(resultErr, &refused) && refused.OutOfMemory != nil {
			refused.OutOfMemory.part = i
		}
		if resultErr == nil && err == nil {
			resultErr = collect(i, raw)
			if resultErr != nil {
				resultErr = fmt.Errorf("%s: read the trainer's answer: %w", op, safetext.JSONError(resultErr))
			}
		}
		if err == nil {
			err = resultErr
		}
	}
	c.settle(op, len(ids), err)
	return err
}

// oneByOne is exchange for a trainer that does not execute requests in their order.
func (c *Client) oneByOne(
	ctx context.Context, op string, requests []request, bound int64, collect func(int, json.RawMessage) error,
) error {
	for i, build := range requests {
		id, err := c.submit(ctx, op, build)
		acked := i
		if err == nil {
			acked++
			err = c.collectOne(ctx, op, id, bound, i, collect)
		}
		if err != nil {
			c.settle(op, acked, err)
			return err
		}
	}
	return nil
}

func (c *Client) collectOne(ctx context.Context, op, id string, bound int64, part int,
	collect func(int, json.RawMessage) error) error {
	raw, err := c.await(ctx, op, id, bound, part)
	if err != nil {
		return err
	}
	if err := collect(part, raw); err != nil {
		return fmt.Errorf("%s: read the trainer's answer: %w", op, safetext.JSONError(err))
	}
	return nil
}

// settle records whether the trainer's weights and gradients are still known
// after a call. acked is the number of its requests that the trainer accepted.
func (c *Client) settle(op string, acked int, err error) {
	accepted := acked > 0 || c.unread || errors.Is(err, ErrUnavailable)
	c.unread = false
	switch op {
	case "load_weights":
		if err == nil {
			c.uncertain = nil
		} else if accepted {
			c.uncertain = err
		}
	case "forward_backward", "optim_step":
		if err != nil && accepted {
			c.uncertain = err
		}
	}
}

// begin waits for the turn and sets the operation's deadline. The context also
// ends with the trainer's process, and when the trainer does not know the session any more.
func (c *Client) begin(ctx context.Context, op string) (context.Context, func(), error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	release := func() bool { return true }
	forgotten := context.AfterFunc(c.known, func() { cancel(fmt.Errorf("%s: %w", op, errForgotten)) })
	if p := c.cfg.Process; p != nil {
		release = context.AfterFunc(p.alive, func() { cancel(context.Cause(p.alive)) })
	}
	late := fmt.Errorf("%s: no result within %v", op, c.cfg.Timeout)
	ended := watchdog.Begin(ctx, "trainer", op, c.cfg.Timeout)
	timed, cancelTimer := context.WithTimeoutCause(ctx, c.cfg.Timeout, late)
	return timed, func() {
		ended()
		cancelTimer()
		release()
		forgotten()
		cancel(nil)
		c.turn <- struct{}{}
	}, nil
}

// submit sends one request under the next sequence number and returns the id
// of its result.
func (c *Client) submit(ctx context.Context, op string, build request) (string, error) {
	for {
		var ack submitted
		err := c.send(ctx, op, build(c.seq), &ack)
		var refused *RequestError
		switch {
		case err == nil && ack.RequestID == "":
			c.taken, c.unread = true, true
			return "", fmt.Errorf("%s: the trainer's answer has no request_id%s", op, otherHint)
		case err == nil:
			c.seq, c.taken = c.seq+1, false
			return ack.RequestID, nil
		case errors.As(err, &refused) && refused.Status == 409 && c.taken:
			// The number was used by a request that went unanswered.
			c.seq, c.taken = c.seq+1, false
		case errors.Is(err, ErrUnavailable):
			c.taken = true
			return "", err
		case refused == nil: // the trainer may have accepted the request
			c.taken, c.unread = true, true
			return "", err
		default:
			return "", err
		}
	}
}

// send posts a request that changes the model, or only reads it. It is repeated if the trainer executes it once.
func (c *Client) send(ctx context.Context, op string, body, ack any) error {
	if c.cfg.Deviations.NoReplays && op != "forward" {
		raw, err := c.postOnce(ctx, op, body)
		if err != nil {
			return err
		}
		return decode(op, raw, ack)
	}
	return c.call(ctx, op, body, ack)
}
