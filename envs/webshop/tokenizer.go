package webshop

import "unicode/utf8"

const (
	zeroWidthJoiner   = '\u200d'
	textPresentation  = '\ufe0e'
	emojiPresentation = '\ufe0f'
	keyCap            = '\u20e3'

	maxTokenUnits = 255 // of UTF-16, the buffer of Lucene's scanner
)

// A tokenizer splits text into words like Lucene 8's StandardTokenizer: by the word
// boundaries of Unicode Standard Annex 29. Each ideograph, hiragana letter and emoji
// sequence is a word, and a run of Thai and similar scripts is one word. A tokenizer can
// be reused. It is not safe for concurrent use.
type tokenizer struct {
	table   *wordClasses
	text    string
	runes   []rune
	classes []wordClass
	starts  []int // byte offset of each rune, and of the end
	limit   int   // tokens end at this rune or before
	reached bool  // a rule has tried to read beyond limit
}

func (t *tokenizer) reset(text string) {
	t.text = text
	t.runes, t.classes, t.starts = t.runes[:0], t.classes[:0], t.starts[:0]
	for i, r := range text {
		t.runes = append(t.runes, r)
		t.classes = append(t.classes, t.table.of(r))
		t.starts = append(t.starts, i)
	}
	t.starts = append(t.starts, len(text))
}

// each calls f for every token of text, in order. The scanner uses the longest match of
// its rules, and skips a character without a match.
func (t *tokenizer) each(text string, f func(token string)) {
	t.reset(text)
	for i := 0; i < len(t.runes); {
		if t.classes[i] == 0 && t.runes[i] != zeroWidthJoiner && t.runes[i] != '#' && t.runes[i] != '*' {
			i++
			continue
		}
		t.limit, t.reached = min(len(t.runes), i+maxTokenUnits/2), false
		end := t.longest(i)
		if t.reached && t.limit < len(t.runes) {
			t.setLimit(i)
			end = t.longest(i)
		}
		if end == i {
			i++
			continue
		}
		f(t.text[t.starts[i]:t.starts[end]])
		i = end
	}
}

// longest is the end of the longest match at i; i if there is none.
func (t *tokenizer) longest(i int) int {
	return max(t.word(i), t.emoji(i), t.asianRun(i), t.singleWord(i))
}

// setLimit finds the end of the scanner's buffer for a token that starts at i. The buffer
// always has room for half as many runes as it has units.
func (t *tokenizer) setLimit(i int) {
	units := 0
	for t.limit = i; t.limit < len(t.runes); t.limit++ {
		units++
		if utf8.RuneLen(t.runes[t.limit]) == 4 {
			units++
		}
		if units > maxTokenUnits {
			return
		}
	}
}

func (t *tokenizer) class(i int) wordClass {
	if i >= t.limit {
		t.reached = true
		return 0
	}
	return t.classes[i]
}

// next is the position after rune i and its extenders.
func (t *tokenizer) next(i int) int {
	for i++; t.class(i)&extender != 0; i++ {
	}
	return i
}

func (t *tokenizer) singleWord(i int) int {
	if t.class(i)&single == 0 {
		return i
	}
	return t.next(i)
}

func (t *tokenizer) asianRun(i int) int {
	for t.class(i)&asian != 0 {
		i = t.next(i)
	}
	return i
}

// word matches a run of letters, digits, connectors and katakana, with the
// punctuation that joins them (rules WB5 to WB13b).
func (t *tokenizer) word(start int) int {
	const alnum = letter | hebrew | digit
	i := start
	for t.class(i)&connector != 0 {
		i = t.next(i)
	}
	if t.class(i)&(alnum|katakana) == 0 {
		return start // connectors alone are not a word
	}
	last := t.class(i)
	i = t.next(i)
	for {
		c := t.class(i)
		switch {
		case c&connector != 0:
			last = connector
		case c&katakana != 0 && last&(katakana|connector) != 0,
			c&alnum != 0 && last&(alnum|connector|closed) != 0:
			last = c
		default:
			end, class := t.joined(i, last)
			if end == i {
				return i
			}
			i, last = end, class
			continue
		}
		i = t.next(i)
	}
}

// closed is the class of a Hebrew letter with its quote. A letter or digit may follow,
// but joining punctuation must not.
const closed wordClass = 1 << 31

// joined matches punctuation at i between a character of class last and the next one. It
// returns i if the punctuation does not join them.
func (t *tokenizer) joined(i int, last wordClass) (int, wordClass) {
	c := t.class(i)
	if c&(midLetter|midNumber|midBoth|singleQuote|doubleQuote) == 0 {
		return i, last
	}
	after := t.next(i)
	follow := t.class(after)
	switch {
	case last&hebrew != 0 && c&singleQuote != 0 && follow&hebrew != 0:
		return t.next(after), hebrew
	case last&(letter|hebrew) != 0 && c&(midLetter|midBoth|singleQuote) != 0 && follow&(letter|hebrew) != 0:
		return t.next(after), letter // also for Hebrew, as no quote may follow
	case last&digit != 0 && c&(midNumber|midBoth|singleQuote) != 0 && follow&digit != 0:
		return t.next(after), digit
	case last&hebrew != 0 && c&singleQuote != 0:
		return after, closed
	case last&hebrew != 0 && c&doubleQuote != 0 && follow&hebrew != 0:
		return t.next(after), closed
	}
	return i, last
}
