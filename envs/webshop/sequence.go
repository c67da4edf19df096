package webshop

// A matcher compares two sequences as Python's difflib.SequenceMatcher does
// without a junk function: it finds the longest common block, then those on
// either side of it, and is neither symmetric nor optimal. It is reused and
// not safe for concurrent use.
type matcher struct {
	a, b      []rune
	positions map[rune][]int // in b, without those of popular elements
	lengths   []int          // of the blocks that end at a[i-1] and b[j-1]
	fresh     []int
}

// ratio is SequenceMatcher(None, a, b).ratio(): twice the matches over the
// length of both.
func (m *matcher) ratio(a, b string) float64 {
	m.a, m.b = append(m.a[:0], []rune(a)...), append(m.b[:0], []rune(b)...)
	total := len(m.a) + len(m.b)
	if total == 0 {
		return 1
	}
	m.index()
	return 2 * float64(m.matches(0, len(m.a), 0, len(m.b))) / float64(total)
}

// popularFrom is the length from which difflib leaves out elements that make
// up more than a hundredth of b.
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

// longest finds the longest block of a[alo:ahi] that is in b[blo:bhi], the
// first in a and then in b among equals, grown by popular elements around it.
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
