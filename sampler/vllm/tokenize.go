package vllm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/fleet"
)

// Tokenize encodes text and adds no tokens. Control tokens written in it are
// plain text.
func (b *Backend) Tokenize(ctx context.Context, text string) ([]int32, error) {
	return b.text.Tokenize(ctx, text)
}

// ControlToken returns the id of a control token, for example "<|im_end|>". It
// returns an error if the model has no such token.
func (b *Backend) ControlToken(ctx context.Context, text string) (int32, error) {
	return b.text.ControlToken(ctx, text)
}

func (c *Config) tokenizer(servers []fleet.Server) tokenizer {
	if c.Codec != nil {
		return c.Codec
	}
	t := &plain{timeout: c.RequestTimeout, single: map[string]int32{}}
	if t.timeout == 0 {
		t.timeout = time.Minute
	}
	for _, s := range servers {
		t.servers = append(t.servers, s.(*server))
	}
	return t
}

// tokenize uses the server's tokenizer: control tokens in text become their
// ids.
func (s *server) tokenize(ctx context.Context, text string) ([]int32, error) {
	var answer struct {
		Tokens []int32 `json:"tokens"`
	}
	err := s.Call(ctx, "/tokenize", map[string]any{"prompt": text, "add_special_tokens": false}, &answer)
	return answer.Tokens, err
}

// plain is the servers' tokenizer for text in which control tokens are plain
// text. The servers parse control tokens, so that a text is split inside each
// of them and its parts are tokenized separately.
type plain struct {
	servers []*server
	timeout time.Duration

	mu     sync.Mutex
	single map[string]int32 // what looks like a control token: its id; −1: it is none
}

const maxSingle = 4096

// shapes match what may be a control token: <|im_end|>, <s>, <start_of_turn>,
// <｜User｜>, [INST].
var shapes = []*regexp.Regexp{
	regexp.MustCompile(`<[^<>\s]{1,64}>`),
	regexp.MustCompile(`<\|[^|\n]{1,64}\|>`),
	regexp.MustCompile(`\[[A-Za-z/_]{1,32}\]`),
}

// Tokenize encodes text. A control token in it is split after its first
// character.
func (p *plain) Tokenize(ctx context.Context, text string) ([]int32, error) {
	ids, err := p.plainly(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("tokenize %.40q: %w", text, err)
	}
	return ids, nil
}

func (p *plain) plainly(ctx context.Context, text string) (ids []int32, err error) {
	var cuts []int
	for _, shape := range shapes {
		for _, span := range shape.FindAllStringIndex(text, -1) {
			id, err := p.lookUp(ctx, text[span[0]:span[1]])
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
		piece, err := p.raw(ctx, text[from:cut])
		if err != nil {
			return nil, err
		}
		ids, from = append(ids, piece...), cut
	}
	return ids, p.unforged(ids)
}

// unforged returns an error if the ids contain a control token.
func (p *plain) unforged(ids []int32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for text, id := range p.single {
		if id >= 0 && slices.Contains(ids, id) {
			return fmt.Errorf("the server makes the control token %q of it", text)
		}
	}
	return nil
}

// ControlToken asks the server; only what looks like a control token is one.
func (p *plain) ControlToken(ctx context.Context, text string) (int32, error) {
	id, err := int32(-1), error(nil)
	if slices.ContainsFunc(shapes, func(s *regexp.Regexp) bool { return s.FindString(text) == text }) {
		id, err = p.lookUp(ctx, text)
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("control token %.40q: %w", text, err)
	case id < 0:
		return 0, fmt.Errorf("control token %.40q: the model has none such", text)
	}
	return id, nil
}

// lookUp returns the id of a text that is one token, else −1.
func (p *plain) lookUp(ctx context.Context, text string) (int32, error) {
	p.mu.Lock()
	id, known := p.single[text]
	p.mu.Unlock()
	if known {
		return id, nil
	}
	ids, err := p.raw(ctx, text)
	if err != nil {
		return 0, err
	}
	id = -1
	if len(ids) == 1 {
		id = ids[0]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if id >= 0 || len(p.single) < maxSingle {
		p.single[text] = id
	}
	return id, nil
}

// raw asks one server after the other.
func (p *plain) raw(ctx context.Context, text string) (ids []int32, err error) {
	if text == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("no answer within %v", p.timeout))
	defer cancel()
	lost := func(err error) bool { return errors.Is(err, fleet.ErrLost) }
	err = jsonhttp.Retry{Attempts: 3, Again: lost}.Do(ctx, func(ctx context.Context) (err error) {
		for _, s := range p.servers {
			if ids, err = s.tokenize(ctx, text); err == nil || !lost(err) || ctx.Err() != nil {
				return err
			}
		}
		return err
	})
	return ids, err
}

// comparedTexts tell tokenizers of different models apart: letters, figures,
// white space, other scripts and code.
var comparedTexts = []string{
	fleet.CanaryText, "x = [1, 22, 333];\n\treturn \"a_b\" != 'C'", "Größe 3,5 µm – naïve café",
	"日本語のテキスト и русский", "  two  spaces \n\n\nlines",
}

const compareTimeout = time.Minute

// checkCodec is an error if the server has another tokenizer than the trainer,
// which means another model.
func (b *Backend) checkCodec(ctx context.Context, codec chat.Codec, s *server) error {
	ctx, cancel := context.WithTimeoutCause(ctx, compareTimeout,
		fmt.Errorf("tokenizers not compared within %v", compareTimeout))
	defer cancel()
	for _, text := range comparedTexts {
		own, err := codec.Tokenize(ctx, text)
		if err != nil {
			return fmt.Errorf("the trainer's tokenizer: %w", err)
		}
		theirs, err := s.tokenize(ctx, text)
		if err != nil {
			return fmt.Errorf("the server's tokenizer: %w", err)
		}
		if !slices.Equal(own, theirs) {
			name, root := b.Model()
			return fmt.Errorf("wrong model on the server: it serves %s (%s), whose tokenizer makes %v of %q, the trainer's "+
				"makes %v\n  hint: serve the model that model.path names",
				name, root, theirs, text, own)
		}
	}
	return nil
}
