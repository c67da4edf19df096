package webshop

import (
	_ "embed"
	"fmt"
	"strings"
	"unicode/utf8"
)

//go:embed wordbreak.txt
var wordBreakTable string

// A wordClass is a set of the properties in wordbreak.txt.
type wordClass uint32

const (
	letter wordClass = 1 << iota
	hebrew
	digit
	katakana
	connector
	single
	asian
	midLetter
	midNumber
	midBoth
	singleQuote
	doubleQuote
	extender
	pictograph
	modifierBase
	modifier
	regional
)

const wordFlags = "AHNKESTLMBQDXPbmR"

const (
	pageBits  = 8
	pageCount = (utf8.MaxRune + 1) >> pageBits
)

// wordClasses maps code points to their class. It is read-only.
type wordClasses struct {
	page  [pageCount]uint16 // index into pages
	pages [][1 << pageBits]wordClass
}

func newWordClasses() *wordClasses {
	t := &wordClasses{pages: make([][1 << pageBits]wordClass, 1)}
	for line := range strings.Lines(wordBreakTable) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var first, last rune
		var flags string
		if _, err := fmt.Sscanf(line, "%X-%X %s", &first, &last, &flags); err != nil {
			panic("webshop: embedded wordbreak.txt: " + line)
		}
		var class wordClass
		for _, f := range flags {
			class |= 1 << strings.IndexRune(wordFlags, f)
		}
		t.fill(first, last, class)
	}
	return t
}

func (t *wordClasses) fill(first, last rune, class wordClass) {
	for r := first; r <= last; r++ {
		p := &t.page[r>>pageBits]
		if *p == 0 {
			*p = uint16(len(t.pages))
			t.pages = append(t.pages, [1 << pageBits]wordClass{})
		}
		t.pages[*p][r&(1<<pageBits-1)] = class
	}
}

func (t *wordClasses) of(r rune) wordClass {
	return t.pages[t.page[r>>pageBits]][r&(1<<pageBits-1)]
}
