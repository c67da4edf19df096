package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler/chat"
)

var (
	_ chat.Codec            = (*ServerText)(nil)
	_ chat.Renderer         = (*ServerText)(nil)
	_ chat.SpecialTokenizer = (*ServerText)(nil)
)

// ServerText is the servers' own tokenizer and chat template. It keeps control tokens in
// text as plain text. The servers would parse them. The text is therefore split inside
// each of them, and its parts are tokenized separately. It is safe for concurrent use.
type ServerText struct {
	// TemplateArgs are arguments of the chat template; may be nil. Set them before the
	// first request.
	TemplateArgs map[string]any

	servers []Server
	timeout time.Duration // of a request

	mu     sync.Mutex
	tokens map[string]int32 // text in the shape of a control token → its id; −1: it is not one token
}

// NewServerText returns the tokenizer of servers that have the same one. timeout bounds
// a request; 0: a minute.
func NewServerText(servers []Server, timeout time.Duration) *ServerText {
	return &ServerText{servers: servers, timeout: cmp.Or(timeout, time.Minute), tokens: map[string]int32{}}
}

const maxTokens = 4096

// controlShapes match possible control tokens: <|im_end|>, <s>, <start_of_turn>,
// <｜User｜>, [INST].
var controlShapes = []*regexp.Regexp{
	regexp.MustCompile(`<[^<>\s]{1,64}>`),
	regexp.MustCompile(`<\|[^|\n]{1,64}\|>`),
	regexp.MustCompile(`\[[A-Za-z/_]{1,32}\]`),
}

// Tokenize encodes text. It splits control tokens after their first character.
func (p *ServerText) Tokenize(ctx context.Context, text string) ([]int32, error) {
	ids, err := p.encode(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("tokenize %.40q: %w", text, err)
	}
	return ids, nil
}

func (p *ServerText) encode(ctx context.Context, text string) (ids []int32, err error) {
	var cuts []int
	for _, shape := range controlShapes {
		for _, span := range shape.FindAllStringIndex(text, -1) {
			id, err := p.singleToken(ctx, text[span[0]:span[1]])
			if err != nil {
				return nil, err
			}
			if id >= 0 {
				cuts = append(cuts, span[0]+1)
			}
		}
	}
	slices.Sort(cuts)
	from := 0
	for _, cut := range append(slices.Compact(cuts), len(text)) {
		piece, err := p.tokenize(ctx, text[from:cut])
		if err != nil {
			return nil, err
		}
		ids, from = append(ids, piece...), cut
	}
	return ids, p.checkNoControlTokens(ids)
}

// checkNoControlTokens returns an error if the ids contain a control token.
func (p *ServerText) checkNoControlTokens(ids []int32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for text, id := range p.tokens {
		if id >= 0 && slices.Contains(ids, id) {
			return fmt.Errorf("the server reads a part of it as the control token %q", text)
		}
	}
	return nil
}

// ControlToken asks the server if the text has the shape of a control token.
func (p *ServerText) ControlToken(ctx context.Context, text string) (int32, error) {
	id, err := int32(-1), error(nil)
	if slices.ContainsFunc(controlShapes, func(s *regexp.Regexp) bool { return s.FindString(text) == text }) {
		id, err = p.singleToken(ctx, text)
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("control token %.40q: %w", text, err)
	case id < 0:
		return 0, fmt.Errorf("control token %.40q: the model has no such token", text)
	}
	return id, nil
}

// singleToken returns the id of a text that is one token, otherwise −1.
func (p *ServerText) singleToken(ctx context.Context, text string) (int32, error) {
	p.mu.Lock()
	id, known := p.tokens[text]
	p.mu.Unlock()
	if known {
		return id, nil
	}
	ids, err := p.tokenize(ctx, text)
	if err != nil {
		return 0, err
	}
	id = -1
	if len(ids) == 1 {
		id = ids[0]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if id >= 0 || len(p.tokens) < maxTokens {
		p.tokens[text] = id
	}
	return id, nil
}

// tokenize encodes text. Control tokens in it become their ids.
func (p *ServerText) tokenize(ctx context.Context, text string) (ids []int32, err error) {
	if text == "" {
		return nil, nil
	}
	err = p.ask(ctx, func(ctx context.Context, s Server) (err error) {
		ids, err = s.Tokenize(ctx, text)
		return err
	})
	return ids, err
}

// TokenizeSpecial implements [chat.SpecialTokenizer].
func (p *ServerText) TokenizeSpecial(ctx context.Context, text string) ([]int32, error) {
	ids, err := p.tokenize(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("tokenize %.40q: %w", text, err)
	}
	return ids, nil
}

// Detokenize implements [chat.Codec].
func (p *ServerText) Detokenize(ctx context.Context, ids []int32) (text string, err error) {
	err = p.ask(ctx, func(ctx context.Context, s Server) (err error) {
		text, err = s.Detokenize(ctx, ids)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("detokenize %d ids: %w", len(ids), err)
	}
	return text, nil
}

// Render implements [chat.Renderer]. The servers return ids, whose text it returns.
func (p *ServerText) Render(ctx context.Context, messages []chat.Message, generation bool) (string, error) {
	var ids []int32
	err := p.ask(ctx, func(ctx context.Context, s Server) (err error) {
		ids, err = s.TokenizeMessages(ctx, messages, generation, p.TemplateArgs)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("render %d messages: %w", len(messages), err)
	}
	return p.Detokenize(ctx, ids)
}

// ask asks one server after another.
func (p *ServerText) ask(ctx context.Context, f func(context.Context, Server) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("no answer within %v", p.timeout))
	defer cancel()
	lost := func(err error) bool { return errors.Is(err, ErrLost) }
	return jsonhttp.Retry{Attempts: 3, Again: lost}.Do(ctx, func(ctx context.Context) (err error) {
		for _, s := range p.servers {
			if err = f(ctx, s); err == nil || !lost(err) || ctx.Err() != nil {
				return err
			}
		}
		return err
	})
}
