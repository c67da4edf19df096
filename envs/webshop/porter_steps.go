package webshop

type suffixRule struct{ from, to string }

var doubleSuffixes = []suffixRule{
	{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"}, {"anci", "ance"}, {"izer", "ize"},
	{"bli", "ble"}, {"alli", "al"}, {"entli", "ent"}, {"eli", "e"}, {"ousli", "ous"},
	{"ization", "ize"}, {"ation", "ate"}, {"ator", "ate"}, {"alism", "al"}, {"iveness", "ive"},
	{"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"}, {"iviti", "ive"}, {"biliti", "ble"}, {"logi", "log"},
}

var derivations = []suffixRule{
	{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"}, {"ical", "ic"}, {"ful", ""}, {"ness", ""},
}

var residues = []string{
	"al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate",
	"iti", "ous", "ive", "ize",
}

// plural is step 1a and 1b: -s, -ed and -ing.
func (w *porter) plural() {
	switch n := len(w.b); {
	case w.b[n-1] != 's':
	case w.ends("sses"):
		w.b = w.b[:n-2]
	case w.ends("ies"):
		w.set("i")
	case w.b[n-2] != 's':
		w.b = w.b[:n-1]
	}
	if w.ends("eed") {
		if w.measure() > 0 {
			w.b = w.b[:len(w.b)-1]
		}
		return
	}
	if (w.ends("ed") || w.ends("ing")) && w.hasVowel() {
		w.b = w.b[:w.j]
		w.restore()
	}
}

// restore corrects the stem after -ed or -ing was removed.
func (w *porter) restore() {
	switch n := len(w.b); {
	case w.ends("at"):
		w.set("ate")
	case w.ends("bl"):
		w.set("ble")
	case w.ends("iz"):
		w.set("ize")
	case w.double(n):
		if c := w.b[n-1]; c != 'l' && c != 's' && c != 'z' {
			w.b = w.b[:n-1]
		}
	default:
		if w.measure() == 1 && w.short(n) {
			w.set("e")
		}
	}
}

// doubleSuffix is step 2 (-ization to -ize and the like).
func (w *porter) doubleSuffix() { w.replaceFirst(doubleSuffixes) }

// derivation is step 3 (-ness, -ful and the like).
func (w *porter) derivation() { w.replaceFirst(derivations) }

func (w *porter) replaceFirst(rules []suffixRule) {
	for _, r := range rules {
		if w.ends(r.from) {
			if w.measure() > 0 {
				w.set(r.to)
			}
			return
		}
	}
}

// residue is step 4: it removes the rest of a suffix from a long stem.
func (w *porter) residue() {
	for _, suffix := range residues {
		if !w.ends(suffix) {
			continue
		}
		if suffix == "ion" && (w.j == 0 || w.b[w.j-1] != 's' && w.b[w.j-1] != 't') {
			continue
		}
		if w.measure() > 1 {
			w.b = w.b[:w.j]
		}
		return
	}
}

// finalE is step 5: -e and -ll.
func (w *porter) finalE() {
	n := len(w.b)
	w.j = n
	if w.b[n-1] == 'e' {
		// The measure includes the e, but a final vowel does not change it.
		if m := w.measure(); m > 1 || m == 1 && !w.short(n-1) {
			w.b = w.b[:n-1]
		}
	}
	if n = len(w.b); n > 0 && w.b[n-1] == 'l' && w.double(n) && w.measureOf(n) > 1 {
		w.b = w.b[:n-1]
	}
}

func (w *porter) measureOf(n int) int {
	w.j = n
	return w.measure()
}
