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
)

// description is the answer to GET /.
type description struct {
	Protocol    string          `json:"protocol"`
	Version     json.RawMessage `json:"version"`
	Instruction string          `json:"instruction"`
	Reflection  string          `json:"reflection"`
}

// describe asks the server what it is. One that does not say is tried out.
func describe(ctx context.Context, c *exchange.Client) (description, error) {
	raw, err := c.Do(ctx, exchange.Request{Path: "/", Prompt: true})
	var f *jsonhttp.Error
	if errors.As(err, &f) && f.Kind != jsonhttp.Unreached && !f.Uncertain() && f.Status != http.StatusUnauthorized && f.Status != http.StatusForbidden {
		return description{}, nil
	}
	if err != nil {
		return description{}, hinted(err)
	}
	var d description
	if json.Unmarshal(raw, &d) != nil || d.Protocol == "" {
		return description{}, nil
	}
	if d.Protocol != protocol {
		return d, fmt.Errorf("the server speaks %q, not %s (hint: %s)", d.Protocol, protocol, c.Recognize(ctx))
	}
	if v := string(d.Version); v != fmt.Sprint(version) && v != "" {
		return d, fmt.Errorf("the server speaks version %s of %s, and this program version %d (hint: let GET / answer \"version\": %d, and /reset and /step as envs/remote says; or upgrade empo2)",
			v, protocol, version, version)
	}
	return d, nil
}

// hinted adds what to do where the operator can do something.
func hinted(err error) error {
	var f *jsonhttp.Error
	switch {
	case !errors.As(err, &f):
		return err
	case f.Kind == jsonhttp.Unreached:
		return fmt.Errorf("%w (hint: start the environment's server, or set its url)", err)
	case f.Status == http.StatusUnauthorized || f.Status == http.StatusForbidden:
		return fmt.Errorf("%w (hint: set the server's token)", err)
	}
	return err
}

// observation is a text or an object; a text describes the situation.
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

// turn: without info.success, an end with a reward above zero is a success.
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

// read decodes an answer and checks that it is whole.
func read(raw json.RawMessage, path string, answer interface{ lacks() string }) error {
	foreign := func(format string, args ...any) error {
		return fmt.Errorf("POST %s: %w", path, &jsonhttp.Error{Kind: jsonhttp.Malformed, Status: http.StatusOK, Message: fmt.Sprintf(format, args...)})
	}
	if message, found := jsonhttp.ErrorIn(raw); found {
		return fmt.Errorf("POST %s: %w", path, &jsonhttp.Error{Kind: jsonhttp.Failed, Status: http.StatusOK, Message: message})
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return foreign("the answer is not one of %s: %v", protocol, err)
	}
	if missing := answer.lacks(); missing != "" {
		return foreign("the answer lacks %q", missing)
	}
	return nil
}
