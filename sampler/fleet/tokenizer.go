package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/chat"
)

// Tokenize implements [Server].
func (c *Client) Tokenize(ctx context.Context, text string) ([]int32, error) {
	var answer struct {
		Tokens []int32 `json:"tokens"`
	}
	err := c.Call(ctx, "/tokenize", map[string]any{"prompt": text, "add_special_tokens": false}, &answer)
	return answer.Tokens, unsupported(err, "/tokenize")
}

// Detokenize implements [Server].
func (c *Client) Detokenize(ctx context.Context, ids []int32) (string, error) {
	var answer struct {
		Prompt *string `json:"prompt"` // vLLM's name
		Text   *string `json:"text"`   // SGLang's name
	}
	err := c.Call(ctx, "/detokenize", map[string]any{"tokens": ids, "skip_special_tokens": false}, &answer)
	switch text := cmp.Or(answer.Prompt, answer.Text); {
	case err != nil:
		return "", unsupported(err, "/detokenize")
	case text == nil:
		return "", fmt.Errorf("%s: the answer of /detokenize has no text", c.URL())
	default:
		return *text, nil
	}
}

// TokenizeMessages implements [Server] as vLLM does it.
func (c *Client) TokenizeMessages(
	ctx context.Context, messages []chat.Message, generation bool, args map[string]any,
) ([]int32, error) {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	body := struct {
		Messages   []message      `json:"messages"`
		Generation bool           `json:"add_generation_prompt"`
		Add        bool           `json:"add_special_tokens"`
		Args       map[string]any `json:"chat_template_kwargs,omitempty"`
	}{Generation: generation, Args: args}
	for _, m := range messages {
		body.Messages = append(body.Messages, message{m.Role, m.Text()})
	}
	var answer struct {
		Tokens []int32 `json:"tokens"`
	}
	err := c.Call(ctx, "/tokenize", body, &answer)
	if status := jsonhttp.Status(err); status == http.StatusBadRequest || status == http.StatusInternalServerError {
		return nil, fmt.Errorf("%w: %w", chat.ErrRefused, err)
	}
	return answer.Tokens, unsupported(err, "/tokenize")
}

// unsupported marks the error of a request that the server does not have.
func unsupported(err error, path string) error {
	if jsonhttp.Status(err) == http.StatusNotFound {
		return fmt.Errorf("%w: no %s", errors.ErrUnsupported, path)
	}
	return err
}

// CompareTokenizers returns an error if a replica has another tokenizer than the
// model, and thus serves another model under the same name. Nil compares the
// replicas with the first healthy one. Each request has the deadline RequestTimeout. A
// replica that is down is compared before it is readmitted.
func (b *Backend) CompareTokenizers(ctx context.Context, own chat.Tokenizer) error {
	reference := b.firstHealthy()
	if own == nil {
		own = withDeadline{b, reference.server}
	} else {
		reference = nil
	}
	b.mu.Lock()
	b.comparison = func(ctx context.Context, s Server) error { return b.compareTokenizer(ctx, own, s) }
	b.mu.Unlock()
	for _, r := range b.replicas {
		if r == reference {
			r.setCompared()
			continue
		}
		if r.unavailable() {
			continue
		}
		s := r.server
		end := watchdog.Begin(ctx, "server", "compare its tokenizer with the model's: "+safetext.URL(s.URL()), 0)
		err := Insist(ctx, s, func() error { return r.compareOnce(ctx) })
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

// compareOnce compares the replica's tokenizer if that was not done before. It does
// nothing before CompareTokenizers.
func (r *replica) compareOnce(ctx context.Context) error {
	r.b.mu.Lock()
	compare, compared := r.b.comparison, r.compared
	r.b.mu.Unlock()
	if compare == nil || compared {
		return nil
	}
	err := compare(ctx, r.server)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		r.b.cfg.Log.Warn().Str("server", r.server.URL()).
			Msg("the server cannot tokenize, so its tokenizer is not compared with the model's; the canary compares both")
	case err != nil:
		return err
	}
	r.setCompared()
	return nil
}

func (r *replica) setCompared() {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.compared = true
}

func (b *Backend) compareTokenizer(ctx context.Context, own chat.Tokenizer, s Server) error {
	d, err := chat.CompareTokenizers(ctx, own, withDeadline{b, s})
	if err != nil || d == nil {
		return err
	}
	return fmt.Errorf("wrong model on the server: %s serves %s (%s): %v\n"+
		"  hint: serve the model that model.path names, on every replica", s.URL(), b.probe.Model, b.probe.Root, d)
}

// withDeadline is a server's tokenizer.
type withDeadline struct {
	b *Backend
	s Server
}

func (w withDeadline) Tokenize(ctx context.Context, text string) ([]int32, error) {
	limit := w.b.cfg.RequestTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	return w.s.Tokenize(ctx, text)
}
