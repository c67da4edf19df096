package chat

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// A part of a rendering is a control token or plain text.
type part struct {
	control bool
	id      int32  // of the control token
	text    string // plain text
}

// splitAtControls splits text at the control tokens in it.
func splitAtControls(text string, controls map[string]int32) []part {
	var parts []part
	for len(text) > 0 {
		at, token := len(text), ""
		for c := range controls {
			i := strings.Index(text, c)
			if i >= 0 && (i < at || i == at && len(c) > len(token)) {
				at, token = i, c
			}
		}
		if at > 0 {
			parts = append(parts, part{text: text[:at]})
		}
		if token != "" {
			parts = append(parts, part{control: true, id: controls[token]})
		}
		text = text[at+len(token):]
	}
	return parts
}

// encode converts parts to token ids. Adjacent plain texts are tokenized as one text, as the model's tokenizer does
// between two control tokens.
func (t *Template) encode(ctx context.Context, parts []part) ([]int32, error) {
	var ids []int32
	strips := false
	for len(parts) > 0 {
		if parts[0].control {
			strips = t.stripping[parts[0].id]
			ids, parts = append(ids, parts[0].id), parts[1:]
			continue
		}
		var run strings.Builder
		for len(parts) > 0 && !parts[0].control {
			run.WriteString(parts[0].text)
			parts = parts[1:]
		}
		text := run.String()
		if strips {
			text, strips = strings.TrimLeftFunc(text, unicode.IsSpace), false
		}
		plain, err := t.tokenize(ctx, text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, plain...)
	}
	return ids, nil
}

// tokenize tokenizes plain text. It returns an error if the ids contain a control token: a tokenizer that parses them
// would let an observation or a tip forge a turn.
func (t *Template) tokenize(ctx context.Context, text string) ([]int32, error) {
	if text == "" {
		return nil, nil
	}
	ids, err := t.tokenizer.Tokenize(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("tokenize %.40q: %w", text, err)
	}
	for _, id := range t.controls {
		if slices.Contains(ids, id) {
			return nil, fmt.Errorf("tokenize %.40q: the tokenizer parsed a control token in plain text", text)
		}
	}
	return ids, nil
}
