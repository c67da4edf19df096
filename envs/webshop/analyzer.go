package webshop

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

var stopWords = map[string]bool{
	"a": true, "an": true, "and": true, "are": true, "as": true, "at": true, "be": true, "but": true, "by": true,
	"for": true, "if": true, "in": true, "into": true, "is": true, "it": true, "no": true, "not": true, "of": true,
	"on": true, "or": true, "such": true, "that": true, "the": true, "their": true, "then": true, "there": true,
	"these": true, "they": true, "this": true, "to": true, "was": true, "will": true, "with": true,
}

// An analyzer turns text into index terms like Anserini's default English analyzer:
// stemmed words in lower case, without a possessive 's and without 33 stop words. It is
// not safe for concurrent use.
type analyzer struct {
	words tokenizer
}

func newAnalyzer(table *wordClasses) *analyzer { return &analyzer{words: tokenizer{table: table}} }

// each calls f for every term of text, in order.
func (a *analyzer) each(text string, f func(term string)) {
	a.words.each(text, func(token string) {
		token = strings.Map(unicode.ToLower, withoutPossessive(token))
		if !stopWords[token] {
			f(stem(token))
		}
	})
}

func withoutPossessive(token string) string {
	n := len(token)
	if n < 3 || token[n-1] != 's' && token[n-1] != 'S' {
		return token
	}
	switch r, size := utf8.DecodeLastRuneInString(token[:n-1]); r {
	case '\'', '\u2019', '\uff07':
		return token[:n-1-size]
	}
	return token
}
