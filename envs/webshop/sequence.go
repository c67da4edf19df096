package webshop

// A matcher compares two sequences like Python's difflib.SequenceMatcher without a junk
// function: it finds the longest common block, then the blocks on both sides of it. The
// result is neither symmetric nor optimal. A matcher can be reused. It is not safe for
// concurrent use.
type matcher struct {
	a, b      []rune
	positions map[rune][]int // in b, without those of popular elements
	lengths   []int          // of the blocks that end at a[i-1] and b[j-1]
	fresh     []int
}

// ratio is SequenceMatcher(None, a, b).ratio(): twice the number of matches divided by
// the sum of the lengths.
func (m *matcher) ratio(a, b string) float64 {
	m.a, m.b = append(m.a[:0], []rune(a)...), append(m.b[:0], []rune(b)...)
	total := len(m.a) + len(m.b)
	if total == 0 {
		return 1
	}
	m.index()
	return 2 * float64(m.matches(0, len(m.a), 0, len(m.b))) / float64(total)
}

// From the length popularFrom on, difflib ignores elements that are more than 1 % of b.
const popularFrom = 200

func (m *matcher) index() {
	if m.positions == nil {
		m.positions = make(map[rune][]int)
	}
	clear(m.positions)
	for j, r := range m.b {
		m.positions[r] = append(m.positions[r], j)
	}
	if n := len(m.b); n >= popularFrom {
		for r, list := range m.positions {
			if len(list) > n/100+1 {
				delete(m.positions, r)
			}
		}
	}
}

func (m *matcher) matches(alo, ahi, blo, bhi int) int {
	if alo >= ahi || blo >= bhi {
		return 0
	}
	i, j, n := m.longest(alo, ahi, blo, bhi)
	if n == 0 {
		return 0
	}
	return n + m.matches(alo, i, blo, j) + m.matches(i+n, ahi, j+n, bhi)
}

// longest finds the longest block of a[alo:ahi] in b[blo:bhi], and extends it by popular
// elements. Of equal blocks it returns the first in a, then the first in b.
func (m *matcher) longest(alo, ahi, blo, bhi int) (besti, bestj, size int) {
	besti, bestj = alo, blo
	m.lengths = zeroed(m.lengths, len(m.b)+1)
	m.fresh = zeroed(m.fresh, len(m.b)+1)
	for i := alo; i < ahi; i++ {
		for _, j := range m.positions[m.a[i]] {
			if j < blo {
				continue
			}
			if j >= bhi {
				break
			}
			k := m.lengths[j] + 1
			m.fresh[j+1] = k
			if k > size {
				besti, bestj, size = i-k+1, j-k+1, k
			}
		}
		m.lengths, m.fresh = m.fresh, m.lengths
		clear(m.fresh)
	}
	for besti > alo && bestj > blo && m.a[besti-1] == m.b[bestj-1] {
		besti, bestj, size = besti-1, bestj-1, size+1
	}
	for besti+size < ahi && bestj+size < bhi && m.a[besti+size] == m.b[bestj+size] {
		size++
	}
	return besti, bestj, size
}

func zeroed(s []int, n int) []int {
	if cap(s) < n {
		return make([]int, n)
	}
	s = s[:n]
	clear(s)
	return s
}
