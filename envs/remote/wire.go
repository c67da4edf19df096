package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/turns"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// description is the answer to GET /.
type description struct {
	Protocol    string          `json:"protocol"`
	Version     json.RawMessage `json:"version"`
	Instruction string          `json:"instruction"`
	Reflection  string          `json:"reflection"`
}

// describe reads the description of the server. It is empty if the server has none.
func describe(ctx context.Context, c *exchange.Client) (description, error) {
	raw, err := c.Do(ctx, exchange.Request{Path: "/", Prompt: true})
	var f *jsonhttp.Error
	locked := errors.As(err, &f) && (f.Status == http.StatusUnauthorized || f.Status == http.StatusForbidden)
	if f != nil && f.Kind != jsonhttp.Unreached && !f.Uncertain() && !locked {
		return description{}, nil
	}
	if err != nil {
		return description{}, hinted(err)
	}
	var d description
	err = json.Unmarshal(raw, &d)
	if d.Protocol == "" {
		return description{}, nil
	}
	if d.Protocol == protocol && err != nil {
		return d, fmt.Errorf("the server's description of itself (GET /): %w\n  hint: it is an object such as "+
			`{"protocol": %q, "version": %d, "instruction": "…"}`, safetext.JSONError(err), protocol, version)
	}
	if d.Protocol != protocol {
		return d, fmt.Errorf("the server speaks %q, not %s\n  hint: %s", d.Protocol, protocol, c.Recognize(ctx, "remote"))
	}
	if v := string(d.Version); v != fmt.Sprint(version) && v != "" {
		return d, fmt.Errorf("the server speaks version %s of %s, and this program version %d"+
			"\n  hint: upgrade empo2, or let the server speak the protocol in envs/remote with \"version\": %d",
			v, protocol, version, version)
	}
	return d, nil
}

// hinted adds a hint to an error that the operator can correct.
func hinted(err error) error {
	var f *jsonhttp.Error
	switch {
	case !errors.As(err, &f):
		return err
	case f.Kind == jsonhttp.Unreached:
		return fmt.Errorf("%w\n  hint: start the environment's server, or correct the url", err)
	case f.Status == http.StatusUnauthorized || f.Status == http.StatusForbidden:
		return fmt.Errorf("%w\n  hint: set the server's token", err)
	}
	return err
}

// An observation is a text or an object. A text is the State.
type observation struct {
	Feedback string `json:"feedback"`
	State    string `json:"state"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *observation) UnmarshalJSON(raw []byte) error {
	if json.Unmarshal(raw, &o.State) == nil {
		return nil
	}
	type plain observation
	if err := json.Unmarshal(raw, (*plain)(o)); err != nil {
		return errors.New(`observation is neither a text nor {"feedback": …, "state": …}`)
	}
	return nil
}

type resetAnswer struct {
	ID          json.RawMessage `json:"id"`
	Observation *observation    `json:"observation"`
}

func (a resetAnswer) lacks() string {
	switch {
	case len(a.ID) == 0 || string(a.ID) == "null":
		return "id"
	case a.Observation == nil:
		return "observation"
	}
	return ""
}

type stepAnswer struct {
	Observation *observation `json:"observation"`
	Reward      *float64     `json:"reward"`
	Terminated  *bool        `json:"terminated"`
	Truncated   bool         `json:"truncated"`
	Info        struct {
		Success *bool    `json:"success"`
		Score   *float64 `json:"score"`
	} `json:"info"`
}

func (a stepAnswer) lacks() string {
	switch {
	case a.Observation == nil:
		return "observation"
	case a.Reward == nil:
		return "reward"
	case a.Terminated == nil:
		return "terminated"
	}
	return ""
}

// turn converts the answer. Without info.success, an end with a positive reward is a
// success.
func (a stepAnswer) turn() turns.Answer {
	success := *a.Terminated && *a.Reward > 0
	if a.Info.Success != nil {
		success = *a.Info.Success
	}
	return turns.Answer{
		Feedback: a.Observation.Feedback, State: a.Observation.State, Reward: *a.Reward, Score: a.Info.Score,
		Success: success, Terminated: *a.Terminated, Truncated: a.Truncated,
	}
}

// read decodes an answer and checks that it is complete.
func read(raw json.RawMessage, path string, answer interface{ lacks() string }) error {
	invalid := func(format string, args ...any) error {
		message := fmt.Sprintf(format, args...)
		failure := &jsonhttp.Error{Kind: jsonhttp.Malformed, Status: http.StatusOK, Message: message}
		return fmt.Errorf("POST %s: %w", path, failure)
	}
	if message, found := jsonhttp.ErrorIn(raw); found {
		failed := &jsonhttp.Error{Kind: jsonhttp.Failed, Status: http.StatusOK, Message: message}
		return fmt.Errorf("POST %s: %w", path, failed)
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return invalid("the answer is not one of %s: %v", protocol, safetext.JSONError(err))
	}
	if missing := answer.lacks(); missing != "" {
		return invalid("the answer lacks %q", missing)
	}
	return nil
}
