package chat

import (
	"container/list"
	"context"
	"slices"
	"sync"
)

// CachedTokenizer remembers the last n texts that inner tokenized. Tokenizing
// is a round trip to the server, and most of a prompt's texts come again. The
// slices returned are shared: do not write to them. Errors are not remembered.
func CachedTokenizer(inner Tokenizer, n int) Tokenizer {
	return &tokenCache{inner: inner, max: max(n, 1), recent: list.New(), byText: map[string]*list.Element{}}
}

type tokenCache struct {
	inner  Tokenizer
	max    int
	mu     sync.Mutex
	recent *list.List // of cached, newest first
	byText map[string]*list.Element
}

type cached struct {
	text string
	ids  []int32
}

func (c *tokenCache) Tokenize(ctx context.Context, text string) ([]int32, error) {
	if ids, ok := c.get(text); ok {
		return ids, nil
	}
	ids, err := c.inner.Tokenize(ctx, text)
	if err != nil {
		return nil, err
	}
	ids = slices.Clip(ids) // an append by one caller must not reach another
	c.put(text, ids)
	return ids, nil
}

func (c *tokenCache) get(text string) ([]int32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byText[text]
	if !ok {
		return nil, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(cached).ids, true
}

func (c *tokenCache) put(text string, ids []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byText[text]; ok {
		return // another goroutine was faster
	}
	c.byText[text] = c.recent.PushFront(cached{text, ids})
	for c.recent.Len() > c.max {
		oldest := c.recent.Back()
		delete(c.byText, oldest.Value.(cached).text)
		c.recent.Remove(oldest)
	}
}
