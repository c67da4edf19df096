package chat_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/samplertest"
)

// countingTokenizer counts the calls for each text.
type countingTokenizer struct {
	*samplertest.Tokenizer
	mu    sync.Mutex
	calls map[string]int
	err   error
}

func (c *countingTokenizer) Tokenize(_ context.Context, text string) ([]int32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[text]++
	return c.Encode(text), c.err
}

func TestCachedTokenizerKeepsTheLatestTexts(t *testing.T) {
	inner := &countingTokenizer{Tokenizer: samplertest.NewTokenizer(), calls: map[string]int{}}
	c := chat.CachedTokenizer(inner, 2)
	for _, text := range []string{"a", "b", "a", "c", "a", "b"} { // c replaces b, not a
		ids, err := c.Tokenize(t.Context(), text)
		if err != nil || !slices.Equal(ids, inner.Encode(text)) {
			t.Errorf("%s: %v, %v", text, ids, err)
		}
		_ = append(ids, 1) // must not change the cache
	}
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 2, "c": 1}, inner.calls); diff != "" {
		t.Error(diff)
	}
	inner.err = errors.New("gone")
	if _, err := c.Tokenize(t.Context(), "d"); err == nil {
		t.Error("the error was not returned")
	}
	inner.err = nil
	if _, err := c.Tokenize(t.Context(), "d"); err != nil {
		t.Errorf("the error was cached: %v", err)
	}
}

func TestCachedTokenizerIsSafeForConcurrentUse(t *testing.T) {
	c := chat.CachedTokenizer(samplertest.NewTokenizer(), 3)
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
