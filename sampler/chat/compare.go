package chat

import (
	"context"
	"fmt"
	"slices"
)

// comparedTexts show differences of tokenizers: letters, English suffixes, digits, white space, other scripts, code,
// and characters outside the basic plane.
var comparedTexts = []string{
	"The quick brown fox jumps over the lazy dog.", "It's a test, don't worry. We'll see; they've IT'S and DON'T.",
	"x = [1, 22, 333];\n\treturn \"a_b\" != 'C'", "In 2024, 1234567 people paid 3.14159.",
	"Größe 3,5 µm – naïve café",
	"日本語のテキスト、漢字とカナ。 русский", "🙂🚀 ☂ ok", "  two  spaces \n\n\nlines    \t end  ",
	"HTTPServer camelCase snake_case",
}

// A Difference is a text that two tokenizers encode differently.
type Difference struct {
	Text       string
	Own, Other []int32
}

// String describes the difference. Own are the ids of the model's tokenizer, and Other those of the server's.
func (d *Difference) String() string {
	return fmt.Sprintf("for %q the model's tokenizer gives %v, the server's gives %v", d.Text, d.Own, d.Other)
}

// CompareCounts compares how many tokens the model's own tokenizer and the server make of a set of texts, for servers
// that tell nothing else. The server may add one token at the beginning of each. CompareCounts returns a description of
// the first difference, or "" if there is none.
func CompareCounts(ctx context.Context, own Tokenizer, count func(context.Context, string) (int, error)) (
	string, error) {
	added := 0
	for i, text := range comparedTexts {
		ids, err := own.Tokenize(ctx, text)
		if err != nil {
			return "", fmt.Errorf("the trainer's tokenizer: %w", err)
		}
		n, err := count(ctx, text)
		if err != nil {
			return "", err
		}
		if i == 0 && n == len(ids)+1 {
			added = 1
		}
		if n != len(ids)+added {
			return fmt.Sprintf("for %q the model's tokenizer gives %d tokens, the server's gives %d",
				text, len(ids)+added, n), nil
		}
	}
	return "", nil
}

// CompareTokenizers encodes a set of texts with the model's own tokenizer and with the server's. It returns the first
// difference, or nil if there is none.
func CompareTokenizers(ctx context.Context, own, other Tokenizer) (*Difference, error) {
	for _, text := range comparedTexts {
		a, err := own.Tokenize(ctx, text)
		if err != nil {
			return nil, fmt.Errorf("the trainer's tokenizer: %w", err)
		}
		b, err := other.Tokenize(ctx, text)
		if err != nil {
			return nil, fmt.Errorf("the server's tokenizer: %w", err)
		}
		if !slices.Equal(a, b) {
			return &Difference{Text: text, Own: a, Other: b}, nil
		}
	}
	return nil, nil
}
