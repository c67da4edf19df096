package strategies

import "slices"

// neighbours decides which record a full pool of REMEMBERER loses: if a new state is at
// least as similar to a stored one as the two most similar stored ones are to each
// other, the new one is not stored. Else the one of this pair that has more samples is
// removed.
type neighbours struct {
	capacity int
	nearest  map[*kase[record]]neighbour // nil until the pool is full
}

type neighbour struct {
	of         *kase[record]
	similarity float64
}

func newNeighbours(m *scope[record], capacity int) *neighbours {
	n := &neighbours{capacity: capacity}
	for len(m.cases) > capacity { // the capacity was lowered
		m.remove(m.cases[0])
	}
	return n
}

// insert adds a record. It returns nil if the state is not stored.
func (n *neighbours) insert(m *scope[record], state string, vector []float32) *kase[record] {
	fresh := &kase[record]{keys: []string{state}, vectors: [][]float32{vector}, changed: true}
	if len(m.cases) < n.capacity {
		m.cases = append(m.cases, fresh)
		n.join(m, fresh)
		return fresh
	}
	if n.nearest == nil {
		n.nearest = map[*kase[record]]neighbour{}
		for _, c := range m.cases {
			n.nearest[c] = nearestTo(c, m.cases)
		}
	}
	a, b, pair := n.closest(m)
	if new := nearestTo(fresh, m.cases); a == nil || new.of == nil || new.similarity >= pair {
		return nil
	}
	if b.data.N > a.data.N {
		a = b
	}
	m.remove(a)
	delete(n.nearest, a)
	for c, near := range n.nearest {
		if near.of == a {
			n.nearest[c] = nearestTo(c, m.cases)
		}
	}
	m.cases = append(m.cases, fresh)
	n.join(m, fresh)
	return fresh
}

// join adds a record to the nearest neighbours.
func (n *neighbours) join(m *scope[record], fresh *kase[record]) {
	if n.nearest == nil {
		return
	}
	n.nearest[fresh] = nearestTo(fresh, m.cases)
	for _, c := range m.cases {
		if s := dot(c.vectors[0], fresh.vectors[0]); c != fresh && s > n.nearest[c].similarity {
			n.nearest[c] = neighbour{fresh, s}
		}
	}
}

// closest returns the two most similar records; the first of them is the older one.
func (n *neighbours) closest(m *scope[record]) (a, b *kase[record], similarity float64) {
	for _, c := range m.cases {
		if near := n.nearest[c]; near.of != nil && (a == nil || near.similarity > similarity) {
			a, b, similarity = c, near.of, near.similarity
		}
	}
	if a != nil && slices.Index(m.cases, b) < slices.Index(m.cases, a) {
		a, b = b, a
	}
	return a, b, similarity
}

// nearestTo returns the most similar other record; of is nil if there is none.
func nearestTo(c *kase[record], cases []*kase[record]) (out neighbour) {
	for _, other := range cases {
		if other == c {
			continue
		}
		if s := dot(c.vectors[0], other.vectors[0]); out.of == nil || s > out.similarity {
			out = neighbour{other, s}
		}
	}
	return out
}
