package memory

import (
	"strings"
	"unicode"
)

// CleanTip makes one line of what the policy wrote: valid UTF-8 without
// control characters, every run of white space (line ends included) one
// space, at most maxRunes characters, cut at a space if there is one. A tip
// that has more than one line could pass its second one off as a state.
func CleanTip(text string, maxRunes int) string {
	text = strings.ToValidUTF8(text, " ")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.IsSpace(r) {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	runes := []rune(text)
	if len(runes) <= maxRunes {
		return text
	}
	cut := string(runes[:maxRunes])
	if space := strings.LastIndexByte(cut, ' '); space > 0 && runes[maxRunes] != ' ' {
		cut = cut[:space]
	}
	return strings.TrimSpace(cut)
}
