package openai

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
	"github.com/empo2/empo2/sampler/chat"
)

const (
	developer = "developer" // the role that newer models have for the system message
	// probeTokens is a limit with which every model answers: some require 16.
	probeTokens = 16
)

// Sample answers the request's messages and ignores its ids. The completion has
// only text, which may be empty.
func (b *Backend) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	c, err := b.sample(ctx, p, r)
	if err != nil {
		return sampler.Completion{}, fmt.Errorf("sample %s: %w", p.Name, err)
	}
	c.Policy = p
	return c, nil
}

func (b *Backend) sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	gate, err := b.enter(p)
	if err != nil {
		return sampler.Completion{}, err
	}
	defer gate.Leave()
	ctx, end := sampler.Within(ctx, b.alive)
	defer end()
	switch {
	case r.MaxTokens < 1:
		return sampler.Completion{}, fmt.Errorf("%d tokens to sample", r.MaxTokens)
	case len(r.Messages) == 0:
		return sampler.Completion{}, errors.New("no messages: chat completions take no ids")
	}
	if err := r.CheckSampling(b.caps); err != nil {
		return sampler.Completion{}, err
	}
	c, err := b.send(ctx, r)
	if err != nil {
		return c, fmt.Errorf("%s: %w", b.client.web.URL(), err)
	}
	return c, nil
}

// enter admits a request, which must leave the gate.
func (b *Backend) enter(p sampler.Policy) (*admission.Gate, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, errClosed
	case b.gate == nil, p != b.policy(), !b.gate.Enter():
		return nil, sampler.ErrPolicyGone
	}
	return b.gate, nil
}

// completionRequest is the body of a completion. Other parameters have the server's
// defaults, because the API cannot switch them off. What a server may refuse is a
// pointer; nil: it is not sent.
type completionRequest struct {
	Model       string    `json:"model"`
	Messages    []message `json:"messages"`
	Temperature *float64  `json:"temperature,omitempty"`
	TopP        *float64  `json:"top_p,omitempty"`
	MaxTokens   int       `json:"max_tokens,omitempty"`
	// MaxCompletion replaces MaxTokens if the server requires it.
	MaxCompletion int            `json:"max_completion_tokens,omitempty"`
	Seed          *int64         `json:"seed,omitempty"`
	TopK          int            `json:"top_k,omitempty"` // not in OpenAI's API, but many servers have it
	Stop          []string       `json:"stop,omitempty"`
	TemplateArgs  map[string]any `json:"chat_template_kwargs,omitempty"`
	Stream        bool           `json:"stream"`

	limit int // tokens that were asked for, also if no limit is sent
}

// MaxAnswer implements [jsonhttp.Bounded].
func (q completionRequest) MaxAnswer() int64 { return sampler.MaxAnswer(q.limit) }

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type answer struct {
	Model   string `json:"model"`
	Choices []struct {
		Finish  string `json:"finish_reason"`
		Message *struct {
			Content content `json:"content"`
		} `json:"message"`
	} `json:"choices"`
	Usage struct {
		Prompt     int64 `json:"prompt_tokens"`
		Completion int64 `json:"completion_tokens"`
	} `json:"usage"`
}

// send waits for a place. It sends the request and retries until there is an
// answer.
func (b *Backend) send(ctx context.Context, r sampler.Request) (sampler.Completion, error) {
	place, err := b.places.Acquire(ctx, admission.Request{})
	if err != nil {
		return sampler.Completion{}, fmt.Errorf("waiting for a place: %w", err)
	}
	defer place.Release()
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.RequestTimeout,
		fmt.Errorf("no answer within %v", b.cfg.RequestTimeout))
	defer cancel()
	a, err := b.exchange(ctx, r)
	parameter := b.refusedParameter(r, err)
	switch {
	case jsonhttp.ContextFull(err):
		return sampler.Completion{}, fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
	case parameter != "":
		return sampler.Completion{}, fmt.Errorf("%w: %w\n  hint: %s", sampler.ErrCapability, err, parameter)
	case err != nil:
		return sampler.Completion{}, err
	}
	c, err := a.completion()
	if err != nil {
		return c, fmt.Errorf("POST /chat/completions: %w", err)
	}
	b.count(a, a.Choices[0].Finish)
	return c, nil
}

// completion checks an answer and converts it.
func (a answer) completion() (sampler.Completion, error) {
	if len(a.Choices) == 0 {
		return sampler.Completion{}, errors.New("the answer has no choices\n" +
			"  hint: check that sampler.openai.url is the address of an OpenAI-compatible API")
	}
	if n := len(a.Choices); n != 1 {
		return sampler.Completion{}, fmt.Errorf("the answer has %d choices, one was asked for\n"+
			"  hint: check that sampler.openai.url is the address of an OpenAI-compatible API", n)
	}
	choice := a.Choices[0]
	if choice.Message == nil {
		return sampler.Completion{}, errors.New("the answer has no message\n" +
			"  hint: check that sampler.openai.url is the address of an OpenAI-compatible API")
	}
	c := sampler.Completion{Text: string(choice.Message.Content), Finish: sampler.FinishStop}
	if cutOff(choice.Finish) {
		c.Finish = sampler.FinishLength
	}
	return c, nil
}

// aboutSystemRole matches refusals of a system message: those of chat templates, of OpenAI and of Google.
var aboutSystemRole = regexp.MustCompile(`(?i)system (role|message|prompt|instruction)|` +
	`developer (role|message|instruction)|role.{0,40}\b(system|developer)\b|messages(\.|\[)0\]?\.role|roles must alternate`)

// cutOff reports whether a finish reason says that the reply reached a limit. Without a reason nothing says that it is
// complete. Servers have words of their own: model_length (Mistral), max_tokens (Anthropic), MAX_TOKENS (Google).
func cutOff(reason string) bool {
	reason = strings.ToLower(reason)
	return reason == "" || strings.Contains(reason, "length") || strings.Contains(reason, "max_") ||
		strings.Contains(reason, "context")
}

// refusedParameter returns a remedy if the server refused a parameter that some
// servers do not have. It is empty for other errors.
func (b *Backend) refusedParameter(r sampler.Request, err error) string {
	var refused *jsonhttp.Error
	if !errors.As(err, &refused) {
		return ""
	}
	hasSystem := slices.ContainsFunc(r.Messages, func(m chat.Message) bool { return m.Role == chat.RoleSystem })
	if hasSystem && b.cfg.SystemRole != chat.RoleUser && aboutSystemRole.MatchString(jsonhttp.ServerText(err)) {
		return fmt.Sprintf("sampler.openai.system_role is %q: \"user\" puts the system message before the first message "+
			"of the user", b.cfg.SystemRole)
	}
	if refused.Status/100 != 4 {
		return ""
	}
	for _, p := range []struct {
		sent       bool
		name, hint string
	}{
		{r.TopK > 0, "top_k", "OpenAI's API has no top_k: leave rollout.top_k and eval.top_k at 0"},
		{len(b.cfg.TemplateArgs) > 0, "chat_template_kwargs",
			"this server accepts no arguments of the chat template: leave sampler.template_args empty"},
		{len(r.Stop) > 0, "stop", "this model accepts fewer stop strings or none: change rollout.stop"},
	} {
		if p.sent && strings.Contains(refused.Message, p.name) {
			return p.hint
		}
	}
	return ""
}

// messages sends the system message with the role that the model accepts.
func (b *Backend) messages(given []chat.Message) []message {
	var out []message
	var system string // text of a system message that is added to the user's
	for _, m := range given {
		role, text := m.Role, m.Text()
		switch {
		case role == chat.RoleSystem && b.cfg.SystemRole == chat.RoleUser:
			system += text + "\n\n"
			continue
		case role == chat.RoleSystem:
			role = b.cfg.SystemRole
		case role == chat.RoleUser:
			text, system = system+text, ""
		}
		out = append(out, message{role, text})
	}
	return out
}

// withModels adds the names of the server's models to an error that may be about
// the model.
func (b *Backend) withModels(ctx context.Context, err error) error {
	switch status := jsonhttp.Status(err); {
	case status == http.StatusNotFound:
	case status/100 != 4, status == http.StatusUnauthorized, status == http.StatusForbidden,
		status == http.StatusTooManyRequests, !strings.Contains(strings.ToLower(jsonhttp.ServerText(err)), "model"):
		return err
	}
	served, listErr := b.client.models(ctx)
	names := served.names()
	if listErr != nil || len(names) == 0 || served.has(b.cfg.Model) {
		return err
	}
	return fmt.Errorf("%w\n  the server has: %s\n  hint: set sampler.served_model_name", err, strings.Join(names, ", "))
}
