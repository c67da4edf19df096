package memory

import "cmp"

// A candidate is an entry of a similar state.
type candidate struct {
	*entry
	cosine float32
}

// compare ranks candidates: a negative value says that c is better than other.
func (c candidate) compare(other candidate) int {
	return cmp.Or(
		cmp.Compare(other.score, c.score),
		cmp.Compare(other.cosine, c.cosine),
		cmp.Compare(other.id, c.id),
	)
}

// best returns the k best tips with distinct texts among the entries of similar states.
// It keeps the k best so far in order: few of many entries get among them.
func best(similar []match, k int) []Tip {
	kept := make([]candidate, 0, k+1)
	for _, m := range similar {
		for i := range m.row.entries {
			c := candidate{&m.row.entries[i], m.cosine}
			if len(kept) < k || c.compare(kept[k-1]) < 0 {
				kept = insert(kept, c, k)
			}
		}
	}
	if len(kept) == 0 {
		return nil
	}
	tips := make([]Tip, len(kept))
	for i, c := range kept {
		tips[i] = *c.tip
	}
	return tips
}

// insert puts c in its place among at most k candidates, unless a better one has its
// text. A worse one with its text goes.
func insert(kept []candidate, c candidate, k int) []candidate {
	place, out := len(kept), len(kept) // where c goes, and the candidate that goes instead
	for i, other := range kept {
		if place == len(kept) && c.compare(other) < 0 {
			place = i
		}
		if other.tip.Text == c.tip.Text {
			out = i
			break
		}
	}
	switch {
	case out < place:
		return kept
	case out == len(kept):
		kept = append(kept, c)
	}
	copy(kept[place+1:out+1], kept[place:out])
	kept[place] = c
	return kept[:min(len(kept), k)]
}
