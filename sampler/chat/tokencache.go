package chat

import (
	"context"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"
)

// CachedTokenizer caches the ids of the last n texts (at least 1) that inner tokenized. Tokenizing is a round trip to
// the server, and most texts of prompts repeat. The returned slices are shared and must not be modified. Errors are
// not cached.
func CachedTokenizer(inner Tokenizer, n int) Tokenizer {
	recent, err := lru.New[string, []int32](max(n, 1))
	if err != nil {
		panic(err) // only for a size below 1
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
	ids = slices.Clip(ids) // an append by one caller must not affect another
	c.recent.Add(text, ids)
	return ids, nil
}
