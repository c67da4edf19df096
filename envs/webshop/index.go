package webshop

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// The parameters of BM25 in Anserini.
const (
	bm25K1 float32 = 0.9
	bm25B  float32 = 0.4
)

// postings has the documents of a term as varints: the distance to the previous
// document and the number of occurrences in this one.
type postings struct {
	data []byte
	last uint32
	docs int32
}

// An indexBuilder collects documents. They are numbered from 0 in the order of add.
type indexBuilder struct {
	analyzer *analyzer
	terms    map[string]int32
	lists    []postings
	norms    []byte // quantized length of each document in terms
	total    int64  // terms in all documents
	filled   int64  // documents with a term
	counts   map[int32]uint32
	order    []int32
}

func newIndexBuilder(table *wordClasses) *indexBuilder {
	return &indexBuilder{
		analyzer: newAnalyzer(table),
		terms:    make(map[string]int32),
		counts:   make(map[int32]uint32),
	}
}

func (b *indexBuilder) add(text string) {
	doc := uint32(len(b.norms))
	length := 0
	clear(b.counts)
	b.order = b.order[:0]
	b.analyzer.each(text, func(term string) {
		length++
		id, ok := b.terms[term]
		if !ok {
			id = int32(len(b.lists))
			b.terms[string([]byte(term))] = id // a copy, so that the text can be freed
			b.lists = append(b.lists, postings{})
		}
		if b.counts[id] == 0 {
			b.order = append(b.order, id)
		}
		b.counts[id]++
	})
	for _, id := range b.order {
		p := &b.lists[id]
		p.data = binary.AppendUvarint(p.data, uint64(doc-p.last))
		p.data = binary.AppendUvarint(p.data, uint64(b.counts[id]))
		p.last = doc
		p.docs++
	}
	b.norms = append(b.norms, quantize(length))
	b.total += int64(length)
	if length > 0 {
		b.filled++
	}
}

// build returns the index. The builder must not be used afterwards.
func (b *indexBuilder) build(table *wordClasses, ids []string) *index {
	x := &index{table: table, terms: b.terms, lists: b.lists, norms: b.norms, ids: ids, filled: b.filled}
	average := float32(float64(b.total) / float64(max(b.filled, 1)))
	for i := range x.inverse {
		length := float32(dequantize(byte(i)))
		x.inverse[i] = 1 / (bm25K1 * ((1 - bm25B) + float32(bm25B*length)/average))
	}
	return x
}

// quantize is Lucene's SmallFloat.intToByte4: exact up to 40, then four
// significant bits.
func quantize(n int) byte {
	if n < quantizeFree {
		return byte(n)
	}
	return byte(quantizeFree + longToInt4(uint64(n-quantizeFree)))
}

func dequantize(b byte) uint64 {
	if int(b) < quantizeFree {
		return uint64(b)
	}
	return quantizeFree + int4ToLong(int(b)-quantizeFree)
}

// quantizeFree is 255 minus the code of the greatest int32.
const quantizeFree = 24

func longToInt4(v uint64) int {
	n := bits.Len64(v)
	if n < 4 {
		return int(v)
	}
	shift := n - 4
	return int(v>>shift)&7 | (shift+1)<<3
}

func int4ToLong(v int) uint64 {
	mantissa, shift := uint64(v&7), v>>3-1
	if shift < 0 {
		return mantissa
	}
	return (mantissa | 8) << shift
}

// idf is BM25's weight of a term that is in docs of n documents.
func idf(n, docs int64) float32 {
	return float32(math.Log(1 + (float64(n-docs)+0.5)/(float64(docs)+0.5)))
}
