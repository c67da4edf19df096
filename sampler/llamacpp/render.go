package llamacpp

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler/chat"
)

var (
	_ chat.Renderer         = (*Backend)(nil)
	_ chat.SpecialTokenizer = (*Backend)(nil)
)

// TokenizeSpecial encodes a rendered template. Control tokens in the text become
// their ids.
func (b *Backend) TokenizeSpecial(ctx context.Context, text string) ([]int32, error) {
	if text == "" {
		return nil, nil
	}
	ids, err := b.tokenize(ctx, text, true)
	if err != nil {
		return nil, fmt.Errorf("tokenize %.40q: %w", text, err)
	}
	return ids, nil
}

// Render applies the chat template of the model's file. The last message must be the
// user's, because the server does not close a last message of the assistant. The
// server removes a beginning-of-text token that its tokenizer would add. Render adds
// it again.
func (b *Backend) Render(ctx context.Context, messages []chat.Message, generation bool) (string, error) {
	if len(messages) == 0 || messages[len(messages)-1].Role != chat.RoleUser {
		return "", fmt.Errorf("render %d messages: the last one must be the user's", len(messages))
	}
	if !b.model.Template { // the server would use ChatML
		return "", fmt.Errorf("%s has no chat template\n"+
			"  hint: name the template that the model was trained with in sampler.template, "+
			"or add chat_template.jinja to the folder in model.path", b.cfg.BaseGGUF)
	}
	v, err := b.anyVersion()
	if err != nil {
		return "", fmt.Errorf("render %d messages: %w", len(messages), err)
	}
	defer v.gate.Leave()
	var text string
	endless := fmt.Errorf("the chat template of %s takes more than %v for %d messages\n"+
		"  hint: correct its loops, or name the template that the model was trained with in sampler.template",
		b.cfg.BaseGGUF, b.cfg.RenderTimeout, len(messages))
	err = v.do(ctx, func(ctx context.Context, r *engine) error {
		return v.withDeadline(ctx, r, func(ctx context.Context) (err error) {
			ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.RenderTimeout, endless)
			defer cancel()
			text, err = r.client.render(ctx, messages, generation, b.cfg.TemplateArgs)
			return err
		})
	})
	if errors.Is(err, endless) {
		return "", endless
	}
	if jsonhttp.Status(err) != 0 {
		err = fmt.Errorf("%w: %w", chat.ErrRefused, err)
	}
	if err != nil {
		return "", fmt.Errorf("render %d messages: %w", len(messages), err)
	}
	return text, nil
}

// render requests a rendering and adds the beginning-of-text token, if there is
// one.
func (c *client) render(
	ctx context.Context, messages []chat.Message, generation bool, args map[string]any,
) (string, error) {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	body := struct {
		Messages   []message      `json:"messages"`
		Generation bool           `json:"add_generation_prompt"`
		Args       map[string]any `json:"chat_template_kwargs,omitempty"`
	}{Generation: generation, Args: args}
	for _, m := range messages {
		body.Messages = append(body.Messages, message{m.Role, m.Text()})
	}
	answer := struct {
		Prompt string `json:"prompt"`
	}{}
	if err := c.call(ctx, "/apply-template", body, &answer); err != nil {
		return "", err
	}
	bos, err := c.beginningOfText(ctx)
	if strings.HasPrefix(answer.Prompt, bos) {
		bos = ""
	}
	return bos + answer.Prompt, err
}

// beginningOfText returns the text of the token that the tokenizer adds before
// every text; empty: none.
func (c *client) beginningOfText(ctx context.Context) (string, error) {
	tokenized := struct {
		Tokens []int32 `json:"tokens"`
	}{}
	body := map[string]any{"content": "", "add_special": true, "parse_special": false}
	if err := c.call(ctx, "/tokenize", body, &tokenized); err != nil || len(tokenized.Tokens) == 0 {
		return "", err
	}
	props := struct {
		BOS string `json:"bos_token"`
	}{}
	if err := c.call(ctx, "/props", nil, &props); err != nil {
		return "", err
	}
	bos, err := c.tokenize(ctx, props.BOS, true)
	if err != nil || len(bos) != 1 || bos[0] != tokenized.Tokens[0] {
		return "", err // the token is added at the end, or has no text
	}
	return props.BOS, nil
}
