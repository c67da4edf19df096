package webshop

import (
	"math"
	"slices"
	"strings"
)

// tokenSetRatio is fuzz.token_set_ratio of thefuzz 0.19 without python-Levenshtein,
// from 0 to 100. Later versions, and that package, give other numbers.
func (m *matcher) tokenSetRatio(s1, s2 string) int {
	p1, p2 := fuzzyForm(s1), fuzzyForm(s2)
	if p1 == "" || p2 == "" {
		return 0
	}
	t1, t2 := wordSet(p1), wordSet(p2)
	var both, only1, only2 []string
	for _, w := range t1 {
		if _, ok := slices.BinarySearch(t2, w); ok {
			both = append(both, w)
		} else {
			only1 = append(only1, w)
		}
	}
	for _, w := range t2 {
		if _, ok := slices.BinarySearch(t1, w); !ok {
			only2 = append(only2, w)
		}
	}
	sect := strings.Join(both, " ")
	with1, with2 := joinWords(sect, only1), joinWords(sect, only2)
	return max(m.percent(sect, with1), m.percent(sect, with2), m.percent(with1, with2))
}

// percent is fuzz.ratio, rounded half to even.
func (m *matcher) percent(a, b string) int {
	switch {
	case a == b:
		return 100
	case a == "" || b == "":
		return 0
	}
	return int(math.RoundToEven(100 * m.ratio(a, b)))
}

// fuzzyForm is thefuzz's full_process with force_ascii: it removes U+0080 to U+00FF,
// replaces non-word characters by spaces, and converts the text to lower case.
func fuzzyForm(s string) string {
	return pyStrip(pyLower(strings.Map(func(r rune) rune {
		switch {
		case r >= 0x80 && r <= 0xff:
			return -1
		case pyWord(r):
			return r
		}
		return ' '
	}, s)))
}

func wordSet(s string) []string {
	words := strings.FieldsFunc(s, pySpace)
	slices.Sort(words)
	return slices.Compact(words)
}

func joinWords(sect string, words []string) string {
	rest := strings.Join(words, " ")
	if sect == "" || rest == "" {
		return sect + rest
	}
	return sect + " " + rest
}
