package trainerbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// CodecConfig is the address of the trainer whose tokenizer is used.
type CodecConfig struct {
	URL   string // for example "http://127.0.0.1:8000"
	Token string // empty: none is sent

	Timeout       time.Duration // of one call, retries included; 0: a minute
	AnswerTimeout time.Duration // of one HTTP exchange, before it is retried; 0: 20 seconds
	Log           zerolog.Logger
}

// A Codec is the tokenizer and the chat template of the trainer's base model.
// Only this project's own trainer serves them. The trainer answers while it
// trains. Calls change nothing, so that they are retried until their deadline.
// A Codec is safe for concurrent use.
type Codec struct {
	// TemplateArgs are arguments of the chat template for Render, for example
	// enable_thinking. Nil: none. Set them before the first call.
	TemplateArgs map[string]any

	cfg       CodecConfig
	transport *jsonhttp.Transport
	find      func(context.Context) (*Process, error) // nil: cfg has the address

	mu        sync.Mutex
	connected bool     // process and conn are set
	process   *Process // the trainer that conn is connected to; nil: the one at cfg.URL
	conn      link
}

// NewCodec makes a Codec of a trainer that runs elsewhere. It sends nothing.
func NewCodec(cfg CodecConfig) *Codec { return newCodec(cfg, nil) }

// Codec makes a Codec that finds the process of l again after each restart. A
// call waits while no process runs. The trainer is only restarted by a call of
// l's other methods; without one, the Codec's call ends at its deadline. Before
// the first Restore and after Close calls end at once with [ErrUnavailable].
func (l *Local) Codec() *Codec {
	cfg := CodecConfig{AnswerTimeout: l.Client.AnswerTimeout, Log: l.Client.Log}
	return newCodec(cfg, l.now.get)
}

func newCodec(cfg CodecConfig, find func(context.Context) (*Process, error)) *Codec {
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.AnswerTimeout == 0 {
		cfg.AnswerTimeout = 20 * time.Second
	}
	return &Codec{cfg: cfg, transport: jsonhttp.NewTransport(64), find: find}
}

// Close closes idle connections. The Codec may still be used.
func (c *Codec) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// Tokenize encodes text and adds no tokens. Control tokens written in it are
// plain text.
func (c *Codec) Tokenize(ctx context.Context, text string) ([]int32, error) {
	return c.tokenize(ctx, text, false)
}

// TokenizeSpecial encodes text and adds no tokens. Control tokens written in it
// become their ids, as in a server that gets its prompt as text.
func (c *Codec) TokenizeSpecial(ctx context.Context, text string) ([]int32, error) {
	return c.tokenize(ctx, text, true)
}

func (c *Codec) tokenize(ctx context.Context, text string, special bool) ([]int32, error) {
	if text == "" {
		return nil, nil
	}
	var out struct {
		Tokens []int32 `json:"tokens"`
	}
	err := c.call(ctx, "tokenize", map[string]any{"text": text, "special": special}, &out)
	return out.Tokens, err
}

// Detokenize decodes ids, control tokens included. Invalid UTF-8 becomes U+FFFD.
func (c *Codec) Detokenize(ctx context.Context, ids []int32) (string, error) {
	if len(ids) == 0 {
		return "", nil
	}
	var out struct {
		Text string `json:"text"`
	}
	err := c.call(ctx, "detokenize", map[string]any{"tokens": ids}, &out)
	return out.Text, err
}

// ControlToken returns the id of a control token, for example "<|im_end|>". It
// returns a [RequestError] if the model has no such token.
func (c *Codec) ControlToken(ctx context.Context, text string) (int32, error) {
	var out struct {
		Token *int32 `json:"token"`
	}
	if err := c.call(ctx, "control_token", map[string]any{"text": text}, &out); err != nil {
		return 0, err
	}
	if out.Token == nil {
		return 0, errors.New("control_token: the trainer's answer has no token")
	}
	return *out.Token, nil
}

// TextMessage is one message of a conversation.
type TextMessage struct {
	Role    string `json:"role"` // system, user, assistant, or another role of the model
	Content string `json:"content"`
}

// Render applies the model's own chat template to messages. With generation it
// also begins the assistant's message. It returns a [RequestError] if the model
// has no template, or if the template refuses the messages. Render does not
// neutralise control tokens written in a message: tokenize the messages one by
// one, never the returned text.
func (c *Codec) Render(ctx context.Context, messages []TextMessage, generation bool) (string, error) {
	var out struct {
		Text string `json:"text"`
	}
	body := map[string]any{"messages": messages, "add_generation_prompt": generation}
	if len(c.TemplateArgs) > 0 {
		body["template_args"] = c.TemplateArgs
	}
	err := c.call(ctx, "render", body, &out)
	return out.Text, err
}

// call sends a request to the trainer. If the trainer's process is replaced in
// the meantime, it sends the request to the new process.
func (c *Codec) call(ctx context.Context, op string, body, result any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, fmt.Errorf("%s: no answer within %v", op, c.cfg.Timeout))
	defer cancel()
	for {
		p, to, err := c.link(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		raw, err := ask(ctx, p, to, op, body)
		switch {
		case err == nil:
			if err := json.Unmarshal(raw, result); err != nil {
				return fmt.Errorf("%s: read the trainer's answer: %w", op, err)
			}
			return nil
		case p == nil || p.Err() == nil || ctx.Err() != nil:
			return withCallHint(err)
		}
	}
}

// maxText bounds an answer about a text in bytes.
const maxText = 64 << 20

// ask sends a request to one trainer. It ends when the trainer's process ends.
func ask(ctx context.Context, p *Process, to link, op string, body any) (json.RawMessage, error) {
	if p != nil {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(p.alive, func() { cancel(context.Cause(p.alive)) })()
	}
	return to.post(ctx, op, op, body, maxText)
}

// link returns the connection to the present trainer.
func (c *Codec) link(ctx context.Context) (*Process, link, error) {
	var p *Process
	url, token := strings.TrimRight(c.cfg.URL, "/"), c.cfg.Token
	if c.find != nil {
		var err error
		if p, err = c.find(ctx); err != nil {
			return nil, link{}, err
		}
		url, token = p.URL(), p.Token()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.connected || c.process != p {
		to, err := newLink(url, token, c.cfg.AnswerTimeout, c.cfg.Log, c.transport)
		if err != nil {
			return nil, link{}, err
		}
		c.process, c.conn, c.connected = p, to, true
	}
	return p, c.conn, nil
}

// withCallHint adds a hint if the trainer does not know the call.
func withCallHint(err error) error {
	var refused *RequestError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return fmt.Errorf("%w\n  hint: only this project's own trainer serves its tokenizer", err)
	}
	return err
}
