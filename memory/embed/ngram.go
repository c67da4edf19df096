// Package embed has the embedders of the memory: [NGram] is built in and needs no
// model, [OpenAI] and [Ollama] use an embedding server.
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

// ngramDimension equals the dimension of the reference's sentence embedding.
const ngramDimension = 384

// NGram embeds a text as a signed hash of the n-grams (one to three words) of its
// sentences. Two texts are similar if they share words in the same order. NGram
// needs no model, and its vectors are the same on every platform. A text without
// words has the zero vector, which is similar to no other. The zero value is ready
// to use.
type NGram struct{}

var _ memory.Embedder = NGram{}

// stopWords are ignored, because they do not describe a state.
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

// weights of an n-gram by its number of words. With equal weights, two doors of a
// vault with the same levers in another order reach a cosine of 0.58. These
// weights make order more important than vocabulary: the cosine stays below 0.5.
var weights = [...]int64{1: 1, 2: 2, 3: 2}

// ngramVector uses integers, so the order of summation has no effect.
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

// feature hashes an n-gram to a component and a sign. The last bytes change the
// upper bits of FNV-1a only a little, so a multiplication mixes the bits.
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
