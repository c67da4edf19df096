package chat

import (
	"context"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"
)

// CachedTokenizer remembers the last n texts (at least 1) that inner tokenized.
// Tokenizing is a round trip to the server, and most of a prompt's texts come
// again. The slices returned are shared: do not write to them. Errors are not
// remembered.
func CachedTokenizer(inner Tokenizer, n int) Tokenizer {
	recent, err := lru.New[string, []int32](max(n, 1))
	if err != nil {
		panic(err) // the size is positive
	}
	return &tokenCache{inner, recent}
}

type tokenCache struct {
	inner  Tokenizer
	recent *lru.Cache[string, []int32]
}

func (c *tokenCache) Tokenize(ctx context.Context, text string) ([]int32, error) {
	if ids, ok := c.recent.Get(text); ok {
		return ids, nil
	}
	ids, err := c.inner.Tokenize(ctx, text)
	if err != nil {
		return nil, err
	}
	ids = slices.Clip(ids) // an append by one caller must not reach another
	c.recent.Add(text, ids)
	return ids, nil
}
