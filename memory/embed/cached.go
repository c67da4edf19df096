package embed

import (
	"context"
	"fmt"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/empo2/empo2/memory"
)

// Cached keeps the vectors of the most recently used texts. An episode needs the
// vector of each of its states twice: to recall and to learn.
type Cached struct {
	embedder memory.Embedder
	recent   *lru.Cache[string, []float32]
}

var _ memory.Embedder = (*Cached)(nil)

// NewCached wraps e with a cache of size texts, 1 or more.
func NewCached(e memory.Embedder, size int) *Cached {
	recent, err := lru.New[string, []float32](max(size, 1))
	if err != nil {
		panic(err) // the size is positive
	}
	return &Cached{e, recent}
}

// Name implements [memory.Embedder].
func (c *Cached) Name() string { return c.embedder.Name() }

// Embed implements [memory.Embedder]. The caller may change the vectors. Concurrent
// calls with the same new text all ask the embedder.
func (c *Cached) Embed(ctx context.Context, texts ...string) ([][]float32, error) {
	vectors := make([][]float32, len(texts))
	var missing []string
	places := make(map[string][]int) // indices of each missing text
	for i, text := range texts {
		if vector, ok := c.recent.Get(text); ok {
			vectors[i] = slices.Clone(vector)
			continue
		}
		if places[text] == nil {
			missing = append(missing, text)
		}
		places[text] = append(places[text], i)
	}
	if len(missing) == 0 {
		return vectors, nil
	}
	fresh, err := c.embedder.Embed(ctx, missing...)
	if err != nil {
		return nil, err
	}
	if len(fresh) != len(missing) {
		return nil, fmt.Errorf("embedder %s returned %d vectors for %d texts", c.Name(), len(fresh), len(missing))
	}
	for i, text := range missing {
		c.recent.Add(text, fresh[i])
		for _, place := range places[text] {
			vectors[place] = slices.Clone(fresh[i])
		}
	}
	return vectors, nil
}
