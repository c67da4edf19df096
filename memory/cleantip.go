package memory

import (
	"strings"
	"unicode"
)

// CleanTip turns a reply of the policy into the text of a tip: the first line
// that is not blank, as valid UTF-8, without control characters, and with
// single spaces. A tip has one line only, because a second line could look like
// the state in a prompt.
//
// A tip of more than limit characters is cut, between two words if possible.
// With limit 0 it is not cut. The result is empty if the reply is blank.
func CleanTip(reply string, limit int) string {
	tip := ""
	for line := range strings.Lines(reply) {
		if tip = cleanLine(line); tip != "" {
			break
		}
	}
	runes := []rune(tip)
	if limit <= 0 || len(runes) <= limit {
		return tip
	}
	cut := string(runes[:limit])
	if space := strings.LastIndexByte(cut, ' '); space > 0 && runes[limit] != ' ' {
		cut = cut[:space]
	}
	return strings.TrimSpace(cut)
}

func cleanLine(line string) string {
	blank := func(r rune) rune {
		if unicode.IsControl(r) || unicode.IsSpace(r) {
			return ' '
		}
		return r
	}
	return strings.Join(strings.Fields(strings.Map(blank, strings.ToValidUTF8(line, " "))), " ")
}
