package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/rivo/uniseg"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// A decoder returns the text of token ids. Control tokens become their text, and
// what is no UTF-8 becomes U+FFFD.
type decoder interface {
	Detokenize(ctx context.Context, ids []int32) (string, error)
}

// A token is an id with its text.
type token struct {
	ID int32 `json:"id"`
	// Text is that of the token alone. A character that takes several tokens has
	// U+FFFD in each of them. Nil: the server does not say.
	Text *string `json:"text"`
}

// pieces finds the texts of tokens, and remembers them.
type pieces struct {
	decoder decoder // nil: texts are unknown
	known   map[int32]string
}

func newPieces(d decoder) *pieces { return &pieces{decoder: d, known: map[int32]string{}} }

// of returns the tokens with their texts.
func (p *pieces) of(ctx context.Context, ids []int32) ([]token, error) {
	out := make([]token, len(ids))
	for i, id := range ids {
		out[i].ID = id
		if p.decoder == nil {
			continue
		}
		text, ok := p.known[id]
		if !ok {
			var err error
			if text, err = p.decoder.Detokenize(ctx, []int32{id}); err != nil {
				return nil, fmt.Errorf("text of token %d: %w", id, err)
			}
			p.known[id] = text
		}
		out[i].Text = &text
	}
	return out, nil
}

// tokens prints tokens one after the other, each as its id and its text in quotes.
func (c *console) tokens(all []token) {
	const bar = "  │ "
	line, used := bar, len([]rune(bar))
	for _, t := range all {
		word := strconv.Itoa(int(t.ID))
		if t.Text != nil {
			word += ":" + safetext.Line(strconv.Quote(*t.Text))
		}
		width := uniseg.StringWidth(word) + 1
		if used+width > columns+1 && used > len([]rune(bar)) {
			c.print("%s", line)
			line, used = bar, len([]rune(bar))
		}
		line, used = line+word+" ", used+width
	}
	if used > len([]rune(bar)) {
		c.print("%s", line)
	}
}
