package webshop

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// A nounTagger returns the nouns of a product's title in lower case, in order and with
// duplicates. The original uses spaCy, whose nouns depend on its model and version.
// Published scores are comparable only with spaCy's list.
type nounTagger interface {
	nouns(p *product) []string
}

// listedNouns are read from a file, a JSON object of lists by asin.
type listedNouns map[string][]string

func readNouns(r io.Reader) (listedNouns, error) {
	list := make(listedNouns)
	err := readObject(r, func(asin string, dec *json.Decoder) error {
		var words []string
		if err := dec.Decode(&words); err != nil {
			return safetext.JSONError(err)
		}
		for i, w := range words {
			words[i] = pyLower(w)
		}
		list[asin] = words
		return nil
	})
	return list, err
}

func (l listedNouns) nouns(p *product) []string { return l[p.asin] }

// covers checks that the list has every product.
func (l listedNouns) covers(c *catalogue) error {
	for i := range c.heads {
		if _, ok := l[c.heads[i].asin]; !ok {
			return fmt.Errorf("product %s is not in the list of nouns\n  hint: make the list from the same items file",
				c.heads[i].asin)
		}
	}
	return nil
}

// guessedNouns treats every word of letters that is not a function word as a noun. It
// needs no list. Some rewards differ from those with spaCy.
type guessedNouns struct{}

var functionWords = map[string]bool{
	"about": true, "above": true, "after": true, "all": true, "also": true, "any": true, "back": true, "both": true,
	"can": true, "do": true, "does": true, "each": true, "easy": true, "every": true, "from": true, "has": true,
	"have": true, "high": true, "how": true, "i": true, "its": true, "made": true, "make": true, "more": true,
	"most": true, "my": true, "new": true, "off": true, "one": true, "only": true, "our": true, "out": true,
	"over": true, "per": true, "so": true, "than": true, "two": true, "under": true, "up": true, "use": true,
	"very": true, "we": true, "when": true, "which": true, "without": true, "you": true, "your": true,
}

func (guessedNouns) nouns(p *product) []string {
	words := strings.FieldsFunc(pyLower(p.title), func(r rune) bool { return !pyWord(r) })
	var nouns []string
	for _, w := range words {
		isWord := !strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsLetter(r) })
		if isWord && !stopWords[w] && !functionWords[w] {
			nouns = append(nouns, w)
		}
	}
	return nouns
}
