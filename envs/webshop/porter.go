package webshop

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// stem is Porter's stemmer (M.F. Porter, An algorithm for suffix stripping, 1980) with the
// later changes in Lucene's PorterStemFilter: words of one or two UTF-16 units are
// unchanged, -bli and -logi are suffixes, and a final -s is removed unless it follows an s.
// word is in lower case.
func stem(word string) string {
	if len(word) <= 2 {
		return word
	}
	ascii := true
	for i := 0; i < len(word); i++ {
		if word[i] >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if !ascii {
		return stemUnits(word)
	}
	w := porter{b: []byte(word)}
	w.stem()
	return string(w.b)
}

// stemUnits stems a word with non-ASCII characters. For the algorithm these are consonants
// and part of no suffix. So each UTF-16 unit is replaced by a letter, and the letters of
// the result are replaced by the units.
func stemUnits(word string) string {
	units := utf16.Encode([]rune(word))
	if len(units) <= 2 {
		return word
	}
	w := porter{b: make([]byte, len(units)), units: units}
	for i, u := range units {
		w.b[i] = byte(u)
		if u >= utf8.RuneSelf {
			w.b[i] = 0xff
		}
	}
	w.stem()
	for i, c := range w.b {
		if c != 0xff {
			units[i] = uint16(c)
		}
	}
	return string(utf16.Decode(units[:len(w.b)]))
}

// A porter has the word. j is the length of the stem before the suffix that ends has
// matched last.
type porter struct {
	b     []byte
	j     int
	units []uint16 // of a word beyond ASCII; nil otherwise
}

func (w *porter) stem() {
	w.plural()
	if w.ends("y") && w.hasVowel() {
		w.b[len(w.b)-1] = 'i'
	}
	w.doubleSuffix()
	w.derivation()
	w.residue()
	w.finalE()
}

func (w *porter) consonant(i int) bool {
	switch w.b[i] {
	case 'a', 'e', 'i', 'o', 'u':
		return false
	case 'y':
		return i == 0 || !w.consonant(i-1)
	}
	return true
}

// measure counts the vowel-consonant sequences of the stem.
func (w *porter) measure() int {
	n, vowel := 0, false
	for i := range w.j {
		c := w.consonant(i)
		if c && vowel {
			n++
		}
		vowel = !c
	}
	return n
}

func (w *porter) hasVowel() bool {
	for i := range w.j {
		if !w.consonant(i) {
			return true
		}
	}
	return false
}

// double reports whether the first n letters end in a double consonant.
func (w *porter) double(n int) bool {
	if n < 2 || w.b[n-1] != w.b[n-2] || !w.consonant(n-1) {
		return false
	}
	return w.b[n-1] != 0xff || w.units[n-1] == w.units[n-2]
}

// short reports whether the first n letters end in consonant, vowel, consonant, and the
// last is not w, x or y.
func (w *porter) short(n int) bool {
	if n < 3 || !w.consonant(n-1) || w.consonant(n-2) || !w.consonant(n-3) {
		return false
	}
	return !strings.ContainsRune("wxy", rune(w.b[n-1]))
}

func (w *porter) ends(suffix string) bool {
	n := len(w.b) - len(suffix)
	if n < 0 || string(w.b[n:]) != suffix {
		return false
	}
	w.j = n
	return true
}

func (w *porter) set(suffix string) { w.b = append(w.b[:w.j], suffix...) }
