package strategies

import (
	"cmp"
	"slices"

	"github.com/empo2/empo2/memory"
)

// A kase is one case of a memory: what is stored, and the states that recall it.
type kase[T any] struct {
	id      int64 // 0: not stored yet
	keys    []string
	vectors [][]float32 // of keys; nil if the method needs none
	data    T
	changed bool // data or keys differ from what is stored
}

// similarity is the largest cosine of a key and v.
func (c *kase[T]) similarity(v []float32) float64 {
	best := 0.0
	for i, key := range c.vectors {
		if s := dot(key, v); i == 0 || s > best {
			best = s
		}
	}
	return best
}

// A scope is the memory of one scope: its cases, oldest first. A scope that is
// recalled from is never changed. A commit learns with a copy.
type scope[T any] struct {
	name    string
	cases   []*kase[T]
	removed []int64 // ids of stored cases that were removed
}

// add appends a case. Equal keys are stored once.
func (m *scope[T]) add(keys []string, vectors [][]float32, data T) *kase[T] {
	c := &kase[T]{data: data, changed: true}
	c.addKeys(keys, vectors)
	m.cases = append(m.cases, c)
	return c
}

func (c *kase[T]) addKeys(keys []string, vectors [][]float32) {
	for i, key := range keys {
		if key == "" || slices.Contains(c.keys, key) {
			continue
		}
		c.keys, c.changed = append(c.keys, key), true
		if vectors != nil {
			c.vectors = append(c.vectors, vectors[i])
		}
	}
}

// find returns the first case for which f is true, or nil.
func (m *scope[T]) find(f func(*kase[T]) bool) *kase[T] {
	if i := slices.IndexFunc(m.cases, f); i >= 0 {
		return m.cases[i]
	}
	return nil
}

// get returns the case with an id that was recalled, or nil if it was removed.
func (m *scope[T]) get(id int64) *kase[T] {
	return m.find(func(c *kase[T]) bool { return c.id == id && id != 0 })
}

// remove deletes a case.
func (m *scope[T]) remove(c *kase[T]) {
	m.cases = slices.DeleteFunc(m.cases, func(x *kase[T]) bool { return x == c })
	if c.id != 0 {
		m.removed = append(m.removed, c.id)
	}
}

// A hit is a case and its similarity to a query.
type hit[T any] struct {
	*kase[T]
	similarity float64
}

// similar returns the cases above a similarity, the most similar first, and of
// equal ones the newest.
func (m *scope[T]) similar(v []float32, threshold float64) []hit[T] {
	var hits []hit[T]
	for i := len(m.cases) - 1; i >= 0; i-- {
		c := m.cases[i]
		if len(c.vectors) == 0 {
			continue
		}
		if s := c.similarity(v); s > threshold {
			hits = append(hits, hit[T]{c, s})
		}
	}
	slices.SortStableFunc(hits, func(a, b hit[T]) int { return cmp.Compare(b.similarity, a.similarity) })
	return hits
}

// tip returns a tip of a case. Its provenance is in t.
func (m *scope[T]) tip(c *kase[T], t memory.Tip, text string) memory.Tip {
	t.ID, t.Scope, t.Text = c.id, m.name, text
	return t
}
