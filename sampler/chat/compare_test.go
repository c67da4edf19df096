package chat_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler/chat"
)

// characters is a tokenizer with an id per character, except for texts in other.
type characters struct {
	other string // texts that contain it have one id
	err   error
}

func (c characters) Tokenize(_ context.Context, text string) ([]int32, error) {
	if c.other != "" && strings.Contains(text, c.other) {
		return []int32{7}, c.err
	}
	return slices.Clone([]rune(text)), c.err
}

// Each kind of text finds a tokenizer that splits it in another way.
func TestCompareTokenizers(t *testing.T) {
	if d, err := chat.CompareTokenizers(t.Context(), characters{}, characters{}); d != nil || err != nil {
		t.Errorf("equal tokenizers: %v, %v", d, err)
	}
	for _, kind := range []string{"It's", "don't", "DON'T", "1234567", "日本語", "🙂", "  ", "\n\n", "é", "_", "camelCase"} {
		d, err := chat.CompareTokenizers(t.Context(), characters{}, characters{other: kind})
		if d == nil || err != nil || !strings.Contains(d.Text, kind) || !slices.Equal(d.Other, []int32{7}) {
			t.Errorf("%s: %v, %v", kind, d, err)
		}
	}
	d, err := chat.CompareTokenizers(t.Context(), characters{other: "It's"}, characters{})
	if err != nil || !strings.Contains(d.String(), "the model's tokenizer gives [7], the server's gives [73 116") {
		t.Errorf("%v, %v", d, err)
	}
	broken := errors.New("no answer")
	if _, err := chat.CompareTokenizers(t.Context(), characters{}, characters{err: broken}); !errors.Is(err, broken) {
		t.Error(err)
	}
}
