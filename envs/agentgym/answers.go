package agentgym

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/empo2/empo2/envs/remote/turns"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// first reads the observation in an answer to /reset. The answer is an object, a
// text, or a list of a text and null.
func (d dialect) first(raw json.RawMessage) (string, error) {
	if message, found := jsonhttp.ErrorIn(raw); found {
		return "", &jsonhttp.Error{Kind: jsonhttp.Failed, Status: http.StatusOK, Message: message}
	}
	var pair []json.RawMessage
	if json.Unmarshal(raw, &pair) == nil && len(pair) > 0 {
		raw = pair[0]
	}
	var bare *string
	if d.bare && json.Unmarshal(raw, &bare) == nil && bare != nil {
		return *bare, nil
	}
	var f fields
	if d.bare || json.Unmarshal(raw, &f) != nil {
		return "", notInDialect("the answer is of another dialect: %.120s", raw)
	}
	text, err := d.observation(f)
	if err != nil || d.task == "" {
		return text, err
	}
	task, err := f.text(d.task)
	return task + "\n" + text, err
}

// observation joins the text and the available actions.
func (d dialect) observation(f fields) (string, error) {
	text, err := f.text(d.text)
	if err != nil || d.actions == "" {
		return text, err
	}
	var actions []string
	if raw, ok := f[d.actions]; !ok || json.Unmarshal(raw, &actions) != nil {
		return "", notInDialect("the answer lacks %s, a list of texts", d.actions)
	}
	if len(actions) == 0 {
		return text, nil
	}
	return text + "\nAvailable actions: " + strings.Join(actions, ", "), nil
}

// answer reads an answer to /step.
func (d dialect) answer(raw json.RawMessage) (turns.Answer, error) {
	var f fields
	if json.Unmarshal(raw, &f) != nil {
		return turns.Answer{}, notInDialect("the answer is not an object: %.120s", raw)
	}
	a := turns.Answer{Cumulative: d.cumulative}
	var textErr, rewardErr, scoreErr error
	a.State, textErr = d.observation(f)
	a.Reward, rewardErr = f.number("reward")
	if d.score != "" {
		var score float64
		score, scoreErr = f.number(d.score)
		a.Score = &score
	}
	if err := errors.Join(textErr, rewardErr, scoreErr); err != nil {
		return a, err
	}
	var done *bool
	if raw, ok := f["done"]; !ok || json.Unmarshal(raw, &done) != nil || done == nil {
		return a, notInDialect("the answer lacks done, true or false")
	}
	a.Terminated = *done
	judged := a.Reward
	if d.judge == "score" {
		judged = *a.Score
	}
	a.Success = a.Terminated && judged >= d.solved
	return a, nil
}

// notInDialect is the error of an answer that is not in the dialect.
func notInDialect(format string, args ...any) error {
	return &jsonhttp.Error{Kind: jsonhttp.Malformed, Status: http.StatusOK, Message: fmt.Sprintf(format, args...)}
}

// fields are the fields of an answer.
type fields map[string]json.RawMessage

// text reads a required text.
func (f fields) text(name string) (string, error) {
	var s *string
	if raw, ok := f[name]; !ok || json.Unmarshal(raw, &s) != nil || s == nil {
		return "", notInDialect("the answer lacks %s, a text", name)
	}
	return *s, nil
}

// number reads a required number.
func (f fields) number(name string) (float64, error) {
	var x *float64
	if raw, ok := f[name]; !ok || json.Unmarshal(raw, &x) != nil || x == nil {
		return 0, notInDialect("the answer lacks %s, a number", name)
	}
	return *x, nil
}
