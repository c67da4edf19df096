// Package embed has the embedders of the memory: one built in and two that
// ask a server.
package embed

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"unicode"

	"github.com/empo2/empo2/memory"
)

// ngramDimension is the dimension of the reference's sentence embedding, too.
const ngramDimension = 384

// NGram embeds a text as a signed hash of its runs of one, two and three
// words within a sentence: texts are similar as far as they share words and
// their order. It needs no model, and its vectors are the same on every
// platform. A text without words has the zero vector, which is similar to
// nothing. The zero value is ready to use.
type NGram struct{}

var _ memory.Embedder = NGram{}

// stopWords say nothing about a state.
var stopWords = map[string]bool{
	"a": true, "the": true, "of": true, "at": true, "is": true, "it": true, "you": true,
}

// Name implements [memory.Embedder].
func (NGram) Name() string { return fmt.Sprintf("ngram-%d", ngramDimension) }

// Embed implements [memory.Embedder].
func (NGram) Embed(_ context.Context, texts ...string) ([][]float32, error) {
	vectors := make([][]float32, len(texts))
	for i, text := range texts {
		vectors[i] = ngramVector(text)
	}
	return vectors, nil
}

// weights of a run by its number of words. With equal weights two doors of a
// vault that list the same levers in another order reach a cosine of 0.58;
// with these, order counts more than vocabulary and they stay below 0.5.
var weights = [...]int64{1: 1, 2: 2, 3: 2}

// ngramVector counts in integers, so that no order of summation matters.
func ngramVector(text string) []float32 {
	var counts [ngramDimension]int64
	for _, sentence := range strings.FieldsFunc(text, endsSentence) {
		words := words(sentence)
		for i := range words {
			for n := 1; n < len(weights) && i+n <= len(words); n++ {
				place, sign := feature(words[i : i+n])
				counts[place] += sign * weights[n]
			}
		}
	}
	var sum int64
	for _, c := range counts {
		sum += c * c
	}
	vector := make([]float32, ngramDimension)
	if sum == 0 {
		return vector
	}
	length := math.Sqrt(float64(sum))
	for i, c := range counts {
		vector[i] = float32(float64(c) / length)
	}
	return vector
}

func endsSentence(r rune) bool { return strings.ContainsRune(".:;!?\n", r) }

func words(text string) []string {
	all := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r)
	})
	kept := all[:0]
	for _, word := range all {
		if !stopWords[word] {
			kept = append(kept, word)
		}
	}
	return kept
}

// feature hashes an n-gram to a place and a sign. FNV-1a's upper bits change
// little with the last bytes, so a multiplicative finish spreads them.
func feature(ngram []string) (place int, sign int64) {
	h := fnv.New64a()
	for _, word := range ngram {
		h.Write([]byte(word))
		h.Write([]byte{' '})
	}
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	sign = 1
	if x>>63 == 1 {
		sign = -1
	}
	return int(x % ngramDimension), sign
}
