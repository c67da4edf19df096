package webshop

import (
	"slices"
	"strings"
	"sync"
)

// A shop has the data that all sessions share. It is safe for concurrent use.
type shop struct {
	catalogue *catalogue
	index     *index
	mode      Mode
	nouns     nounTagger
	judges    sync.Pool // of *judge
}

// Keywords that begin with one of these list products without a search.
const (
	randomResults  = "<r>"
	byAttribute    = "<a>"
	byCategory     = "<c>"
	byProductQuery = "<q>"
)

// find lists the products for keywords, best first. draw returns the stream for random
// results.
func (sh *shop) find(keywords []string, draw func() *pyRandom) []int32 {
	rest := pyStrip(strings.Join(keywords[1:], " "))
	switch keywords[0] {
	case randomResults:
		n := len(sh.catalogue.heads)
		picked := draw().sample(n, min(n, resultsMax))
		found := make([]int32, len(picked))
		for i, p := range picked {
			found[i] = int32(p)
		}
		return found
	case byAttribute:
		return sh.catalogue.filter(func(h *head) bool { return slices.Contains(h.attributes, rest) })
	case byCategory:
		if len(keywords) < 2 {
			return nil
		}
		category := pyStrip(keywords[1])
		return sh.catalogue.filter(func(h *head) bool { return h.category == category })
	case byProductQuery:
		return sh.catalogue.filter(func(h *head) bool { return h.query == rest })
	}
	hits := sh.index.search(strings.Join(keywords, " "), resultsMax)
	found := make([]int32, len(hits))
	for i, h := range hits {
		found[i] = h.doc
	}
	return found
}

func (c *catalogue) filter(keep func(*head) bool) []int32 {
	var found []int32
	for i := range c.heads {
		if keep(&c.heads[i]) {
			found = append(found, int32(i))
		}
	}
	return found
}

func (sh *shop) pay(i int32, p *product, chosen []string, w *wanted) Purchase {
	j, ok := sh.judges.Get().(*judge)
	if !ok {
		j = &judge{nouns: sh.nouns}
	}
	defer sh.judges.Put(j)
	return j.pay(p, sh.catalogue.heads[i].price, chosen, w)
}
