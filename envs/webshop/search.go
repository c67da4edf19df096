package webshop

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"
)

// A hit is a found document.
type hit struct {
	doc   int32
	score float32
}

// An index ranks documents by BM25 with the arithmetic of Lucene 8, so the scores have
// the same bits. It is safe for concurrent use.
type index struct {
	table   *wordClasses
	terms   map[string]int32
	lists   []postings
	norms   []byte
	ids     []string     // the order of equal scores
	inverse [256]float32 // 1/(k1·(1−b+b·length/average)) by quantized length
	filled  int64
	scratch sync.Pool // of *searcher
}

// A searcher is the memory of one search.
type searcher struct {
	analyzer *analyzer
	sums     []float64 // by document; zero between searches
	touched  []int32
	terms    []queryTerm
}

type queryTerm struct {
	id    int32
	boost float32 // number of occurrences in the query
}

// search returns the best k documents for a query, best first. Documents with equal
// scores are sorted by id. Documents without a term of the query are not returned.
func (x *index) search(query string, k int) []hit {
	s, ok := x.scratch.Get().(*searcher)
	if !ok {
		s = &searcher{analyzer: newAnalyzer(x.table), sums: make([]float64, len(x.norms))}
	}
	defer x.scratch.Put(s)
	s.parse(x, query)
	for _, t := range s.terms {
		s.score(x, t)
	}
	return s.best(x, k)
}

func (s *searcher) parse(x *index, query string) {
	s.terms = s.terms[:0]
	s.analyzer.each(query, func(term string) {
		id, ok := x.terms[term]
		if !ok {
			return
		}
		for i := range s.terms {
			if s.terms[i].id == id {
				s.terms[i].boost++
				return
			}
		}
		s.terms = append(s.terms, queryTerm{id, 1})
	})
}

// score adds a term's share w − w/(1 + tf·inverse) to its documents.
func (s *searcher) score(x *index, t queryTerm) {
	list := &x.lists[t.id]
	weight := t.boost * idf(x.filled, int64(list.docs))
	doc := uint64(0)
	for data := list.data; len(data) > 0; {
		gap, n := binary.Uvarint(data)
		count, m := binary.Uvarint(data[n:])
		data = data[n+m:]
		doc += gap
		if s.sums[doc] == 0 {
			s.touched = append(s.touched, int32(doc))
		}
		norm := float32(float32(count) * x.inverse[x.norms[doc]])
		s.sums[doc] += float64(weight - weight/(1+norm))
	}
}

// best returns the k best documents and clears the sums.
func (s *searcher) best(x *index, k int) []hit {
	better := func(a, b hit) int {
		if c := cmp.Compare(b.score, a.score); c != 0 {
			return c
		}
		return cmp.Compare(x.ids[a.doc], x.ids[b.doc])
	}
	top := make([]hit, 0, k+1)
	for _, doc := range s.touched {
		h := hit{doc, float32(s.sums[doc])}
		s.sums[doc] = 0
		if len(top) == k && better(h, top[k-1]) > 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, h, better)
		top = slices.Insert(top, at, h)[:min(len(top)+1, k)]
	}
	s.touched = s.touched[:0]
	return top
}
