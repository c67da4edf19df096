package embed

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/empo2/empo2/memory"
)

// Cached keeps the vectors of the most recently used texts. An episode needs the
// vector of each of its states twice: to recall and to learn.
type Cached struct {
	embedder memory.Embedder
	size     int

	mu     sync.Mutex
	recent *list.List // of cachedText, most recent first
	places map[string]*list.Element
}

type cachedText struct {
	text   string
	vector []float32
}

var _ memory.Embedder = (*Cached)(nil)

// NewCached wraps e with a cache of size texts, 1 or more.
func NewCached(e memory.Embedder, size int) *Cached {
	return &Cached{embedder: e, size: max(size, 1), recent: list.New(), places: make(map[string]*list.Element)}
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
		if vectors[i] = c.get(text); vectors[i] != nil {
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
		c.put(text, fresh[i])
		for _, place := range places[text] {
			vectors[place] = slices.Clone(fresh[i])
		}
	}
	return vectors, nil
}

func (c *Cached) get(text string) []float32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.places[text]
	if !ok {
		return nil
	}
	c.recent.MoveToFront(at)
	return slices.Clone(at.Value.(cachedText).vector)
}

func (c *Cached) put(text string, vector []float32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.places[text]; ok {
		c.recent.MoveToFront(at)
		return
	}
	if c.recent.Len() >= c.size {
		oldest := c.recent.Back()
		c.recent.Remove(oldest)
		delete(c.places, oldest.Value.(cachedText).text)
	}
	c.places[text] = c.recent.PushFront(cachedText{text, vector})
}
