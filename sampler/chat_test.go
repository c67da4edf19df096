package sampler_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

func TestAnActionThatWasCutOffIsClosed(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), samplertest.Say("pull"))
	template, err := sampler.NewChatML(t.Context(), b, b)
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

// A tokenizer that parses control tokens would let any text forge a turn.
func TestTokenizerThatParsesControlTokensIsRefused(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), samplertest.Say("pull"))
	template, err := sampler.NewChatML(t.Context(), parsing{b}, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := template.Extend(t.Context(), nil, user("a<|im_end|>b")); err == nil || !strings.Contains(err.Error(), "control token") {
		t.Errorf("rendered: %v", err)
	}
}

func user(text string) sampler.Message {
	return sampler.Message{Role: sampler.RoleUser, Spans: []sampler.Span{{Kind: sampler.StateSpan, Text: text}}}
}

type parsing struct{ *samplertest.Scripted }

func (p parsing) Tokenize(_ context.Context, text string) ([]int32, error) {
	before, after, found := strings.Cut(text, "<|im_end|>")
	if !found {
		return p.Encode(text), nil
	}
	return slices.Concat(p.Encode(before), []int32{samplertest.End}, p.Encode(after)), nil
}

func TestTemplateNeedsItsControlTokens(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), samplertest.Say("pull"))
	if _, err := sampler.NewChatML(t.Context(), b, none{}); err == nil || !strings.Contains(err.Error(), "<|im_start|>") {
		t.Errorf("error %v", err)
	}
}

type none struct{}

func (none) ControlToken(_ context.Context, text string) (int32, error) {
	return 0, fmt.Errorf("no token %s", text)
}

// counting counts what reaches the server.
type counting struct {
	*samplertest.Tokenizer
	mu    sync.Mutex
	asked map[string]int
	err   error
}

func (c *counting) Tokenize(_ context.Context, text string) ([]int32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[text]++
	return c.Encode(text), c.err
}

func TestCachedTokenizerKeepsTheLatest(t *testing.T) {
	inner := &counting{Tokenizer: samplertest.NewTokenizer(), asked: map[string]int{}}
	c := sampler.CachedTokenizer(inner, 2)
	for _, text := range []string{"a", "b", "a", "c", "a", "b"} { // c drives out b, not a
		ids, err := c.Tokenize(t.Context(), text)
		if err != nil || !slices.Equal(ids, inner.Encode(text)) {
			t.Errorf("%s: %v, %v", text, ids, err)
		}
		_ = append(ids, 1) // must not reach the cache
	}
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 2, "c": 1}, inner.asked); diff != "" {
		t.Error(diff)
	}
	inner.err = errors.New("gone")
	if _, err := c.Tokenize(t.Context(), "d"); err == nil {
		t.Error("the error was lost")
	}
	inner.err = nil
	if _, err := c.Tokenize(t.Context(), "d"); err != nil {
		t.Errorf("the error was remembered: %v", err)
	}
}

func TestCachedTokenizerIsSafeForConcurrentUse(t *testing.T) {
	c := sampler.CachedTokenizer(samplertest.NewTokenizer(), 3)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 50 {
				text := fmt.Sprint((i + k) % 5)
				if ids, err := c.Tokenize(t.Context(), text); err != nil || len(ids) != 1 {
					t.Errorf("%s: %v, %v", text, ids, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSeedsOfCoordinatesDiffer(t *testing.T) {
	seen := map[uint64]bool{sampler.Seed(1): true}
	for _, coordinates := range [][]uint64{{0}, {1}, {0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 0, 0}} {
		for parent := range uint64(3) {
			s := sampler.Seed(parent, coordinates...)
			if seen[s] {
				t.Errorf("seed of %d, %v came before", parent, coordinates)
			}
			seen[s] = true
		}
	}
}
