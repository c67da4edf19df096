package openai

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
	"github.com/empo2/empo2/sampler/chat"
)

const (
	developer = "developer" // the role that newer models have for the system message
	// probeTokens are enough for every model to answer; some demand 16.
	probeTokens = 16
)

// Sample answers the request's messages; its ids are not read. The completion
// has text only, which may be empty.
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
	return b.ask(ctx, r)
}

// enter counts a request in.
func (b *Backend) enter(p sampler.Policy) (*admission.Gate, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, errClosed
	case b.now == nil, p != b.policy(), !b.now.Enter():
		return nil, sampler.ErrPolicyGone
	}
	return b.now, nil
}

// question is the body of a completion. Other parameters keep the server's
// default: the interface cannot switch them off.
type question struct {
	Model       string    `json:"model"`
	Messages    []message `json:"messages"`
	Temperature float64   `json:"temperature"`
	TopP        float64   `json:"top_p"`
	MaxTokens   int       `json:"max_tokens,omitempty"`
	// MaxCompletion replaces MaxTokens where the server demands it.
	MaxCompletion int            `json:"max_completion_tokens,omitempty"`
	Seed          int64          `json:"seed"`
	TopK          int            `json:"top_k,omitempty"` // not of OpenAI's interface; many servers know it
	Stop          []string       `json:"stop,omitempty"`
	TemplateArgs  map[string]any `json:"chat_template_kwargs,omitempty"`
	Stream        bool           `json:"stream"`
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type answer struct {
	Model   string `json:"model"`
	Choices []struct {
		Finish  string `json:"finish_reason"`
		Message struct {
			Content string `json:"content"` // null is empty
		} `json:"message"`
	} `json:"choices"`
	Usage struct {
		Prompt     int64 `json:"prompt_tokens"`
		Completion int64 `json:"completion_tokens"`
	} `json:"usage"`
}

// ask waits for a place and sends the request until there is an answer.
func (b *Backend) ask(ctx context.Context, r sampler.Request) (sampler.Completion, error) {
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
	case full(err):
		return sampler.Completion{}, fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
	case parameter != "":
		return sampler.Completion{}, fmt.Errorf("%w: %w\n  hint: %s", sampler.ErrCapability, err, parameter)
	case err != nil:
		return sampler.Completion{}, err
	case len(a.Choices) == 0:
		return sampler.Completion{}, errors.New("the answer has no choices")
	}
	choice := a.Choices[0]
	c := sampler.Completion{Text: choice.Message.Content, Finish: sampler.FinishStop}
	if choice.Finish == "length" || choice.Finish == "" {
		c.Finish = sampler.FinishLength
	}
	b.count(a, choice.Finish)
	return c, nil
}

// exchange sends the token limit under the name that the server demands.
func (b *Backend) exchange(ctx context.Context, r sampler.Request) (answer, error) {
	for {
		newer := b.newer.Load()
		var a answer
		err := b.client.call(ctx, "/chat/completions", b.question(r, newer), &a)
		if newer || !demandsNewer(err) {
			return a, err
		}
		b.newer.Store(true)
	}
}

func demandsNewer(err error) bool {
	return jsonhttp.Status(err)/100 == 4 && strings.Contains(jsonhttp.ServerText(err), "max_completion_tokens")
}

// refusedParameter is the remedy if the server refused a parameter that not
// every server knows; empty: it did not.
func (b *Backend) refusedParameter(r sampler.Request, err error) string {
	var refused *jsonhttp.Error
	if !errors.As(err, &refused) || refused.Status/100 != 4 {
		return ""
	}
	for _, p := range []struct {
		sent       bool
		name, hint string
	}{
		{r.TopK > 0, "top_k", "OpenAI's own interface has no top_k: leave rollout.top_k and eval.top_k at 0"},
		{len(b.cfg.TemplateArgs) > 0, "chat_template_kwargs",
			"this server takes no arguments for the chat template: leave sampler.template_args empty"},
		{len(r.Stop) > 0, "stop", "this model takes no stop strings, or fewer: change rollout.stop"},
	} {
		if p.sent && strings.Contains(refused.Message, p.name) {
			return p.hint
		}
	}
	return ""
}

// full says whether the conversation did not fit the context.
func full(err error) bool {
	var refused *jsonhttp.Error
	if !errors.As(err, &refused) || refused.Status < 300 {
		return false
	}
	said := refused.Code + " " + refused.Type + " " + refused.Message
	for _, words := range []string{"context_length_exceeded", "exceed_context_size", "maximum context length",
		"exceeds the context length"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}

func (b *Backend) question(r sampler.Request, newer bool) question {
	q := question{
		Model: b.cfg.Model, Messages: b.messages(r.Messages), Temperature: r.Temperature, TopP: r.NucleusP(), TopK: r.TopK,
		Stop:      r.Stop,
		MaxTokens: r.MaxTokens, Seed: sampler.ShortSeed(r.Seed), TemplateArgs: b.cfg.TemplateArgs,
	}
	if newer {
		q.MaxTokens, q.MaxCompletion = 0, r.MaxTokens
	}
	return q
}

// messages gives the system message the role that the model knows.
func (b *Backend) messages(given []chat.Message) []message {
	var out []message
	var before string // text of a system message that goes to the user's
	for _, m := range given {
		role, text := m.Role, m.Text()
		switch {
		case role == chat.RoleSystem && b.cfg.SystemRole == chat.RoleUser:
			before += text + "\n\n"
			continue
		case role == chat.RoleSystem:
			role = b.cfg.SystemRole
		case role == chat.RoleUser:
			text, before = before+text, ""
		}
		out = append(out, message{role, text})
	}
	return out
}

// explain adds the models of the server to a refusal of the model.
func (b *Backend) explain(ctx context.Context, err error) error {
	if jsonhttp.Status(err)/100 != 4 {
		return err
	}
	served, listErr := b.client.models(ctx)
	names := served.names()
	if listErr != nil || len(names) == 0 {
		return err
	}
	return fmt.Errorf("%w\n  the server has: %s\n  hint: set sampler.served_model_name", err, strings.Join(names, ", "))
}
