package chat_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/samplertest"
)

func TestExtendEndsAReplyThatWasCutOff(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), samplertest.Say("pull"))
	template, err := chat.NewChatML(t.Context(), b, b)
	if err != nil {
		t.Fatal(err)
	}
	f := func(ids []int32, want string) {
		t.Helper()
		got, err := template.Extend(t.Context(), ids, user("x"))
		if want += "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"; err != nil || b.Decode(got) != want {
			t.Errorf("after %v: %q, %v, want %q", ids, b.Decode(got), err, want)
		}
	}
	f(nil, "")
	f([]int32{50}, "<|im_end|>\n")
	f([]int32{50, samplertest.End}, "\n")
	f([]int32{50, samplertest.EndOfText}, "<|im_end|>\n")
}

// A tokenizer that parses control tokens would let texts forge a turn.
func TestTokenizersThatParseControlTokensAreRefused(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), samplertest.Say("pull"))
	template, err := chat.NewChatML(t.Context(), parsingTokenizer{b}, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := template.Extend(t.Context(), nil, user("a<|im_end|>b")); err == nil ||
		!strings.Contains(err.Error(), "control token") {
		t.Errorf("rendered: %v", err)
	}
}

func user(text string) chat.Message {
	return chat.Message{Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: text}}}
}

// parsingTokenizer parses <|im_end|> in text.
type parsingTokenizer struct{ *samplertest.Scripted }

func (p parsingTokenizer) Tokenize(_ context.Context, text string) ([]int32, error) {
	before, after, found := strings.Cut(text, "<|im_end|>")
	if !found {
		return p.Encode(text), nil
	}
	return slices.Concat(p.Encode(before), []int32{samplertest.End}, p.Encode(after)), nil
}

func TestTemplatesNeedTheirControlTokens(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), samplertest.Say("pull"))
	if _, err := chat.NewChatML(t.Context(), b, noControlTokens{}); err == nil ||
		!strings.Contains(err.Error(), "<|im_start|>") {
		t.Errorf("error %v", err)
	}
}

// noControlTokens is a model without control tokens.
type noControlTokens struct{}

func (noControlTokens) ControlToken(_ context.Context, text string) (int32, error) {
	return 0, fmt.Errorf("no token %s", text)
}
