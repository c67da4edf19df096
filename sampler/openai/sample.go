package openai

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
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
	s, err := b.enter(p)
	if err != nil {
		return sampler.Completion{}, err
	}
	defer b.leave(s)
	ctx, end := b.within(ctx)
	defer end()
	switch {
	case r.MaxTokens < 1:
		return sampler.Completion{}, fmt.Errorf("%d tokens to sample", r.MaxTokens)
	case math.IsNaN(r.Temperature) || math.IsInf(r.Temperature, 0) || r.Temperature < 0:
		return sampler.Completion{}, fmt.Errorf("temperature %v", r.Temperature)
	case len(r.Messages) == 0:
		return sampler.Completion{}, errors.New("no messages: chat completions take no ids")
	}
	return b.ask(ctx, r)
}

// enter counts a request in.
func (b *Backend) enter(p sampler.Policy) (*serving, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, errClosed
	case b.now == nil, p != b.policy():
		return nil, sampler.ErrPolicyGone
	}
	b.now.inFlight++
	return b.now, nil
}

func (b *Backend) leave(s *serving) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.inFlight--
	s.settle()
}

// question is the body of a completion. What it does not name is the server's
// default, which the interface gives no way to switch off.
type question struct {
	Model       string    `json:"model"`
	Messages    []message `json:"messages"`
	Temperature float64   `json:"temperature"`
	TopP        float64   `json:"top_p"`
	MaxTokens   int       `json:"max_tokens,omitempty"`
	// MaxCompletion replaces MaxTokens where the server demands it.
	MaxCompletion int   `json:"max_completion_tokens,omitempty"`
	Seed          int64 `json:"seed"`
	Stream        bool  `json:"stream"`
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

// ask waits for a place and asks until there is an answer.
func (b *Backend) ask(ctx context.Context, r sampler.Request) (sampler.Completion, error) {
	select {
	case b.places <- struct{}{}:
		defer func() { <-b.places }()
	case <-ctx.Done():
		return sampler.Completion{}, fmt.Errorf("waiting for a place: %w", context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.RequestTimeout, fmt.Errorf("no answer within %v", b.cfg.RequestTimeout))
	defer cancel()
	a, err := b.exchange(ctx, r)
	switch {
	case full(err):
		return sampler.Completion{}, fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
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

// exchange sends the limit under the name that the server wants.
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
	return jsonhttp.Status(err)/100 == 4 && strings.Contains(jsonhttp.Said(err), "max_completion_tokens")
}

// full recognises what servers say to a conversation without room.
func full(err error) bool {
	var refused *jsonhttp.Error
	if !errors.As(err, &refused) || refused.Status < 300 {
		return false
	}
	said := refused.Code + " " + refused.Type + " " + refused.Message
	for _, words := range []string{"context_length_exceeded", "exceed_context_size", "maximum context length", "exceeds the context length"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}

func (b *Backend) question(r sampler.Request, newer bool) question {
	q := question{
		Model: b.cfg.Model, Messages: b.messages(r.Messages), Temperature: r.Temperature, TopP: 1,
		MaxTokens: r.MaxTokens, Seed: sampler.ShortSeed(r.Seed),
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

// explain adds what the server has to a refusal of the model.
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
