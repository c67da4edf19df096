// Package safetext makes texts from outside harmless before they are shown, logged
// or stored. Environments, models, servers and child processes write such texts.
//   - [Escape] replaces characters that control a terminal.
//   - [Writer] does the same with everything that is written through it.
//   - [Redactor] replaces secrets, plain or encoded.
//   - [JSONError] says what is wrong with a JSON text without the types of Go.
//   - [URL] removes the user and the password of a URL.
//
// The package imports no other package of this project, so every package may use it.
package safetext

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape replaces the characters that control a terminal by escapes such as \u001b:
// control characters except line ends and tabs, characters that change the
// direction of the text, and Unicode's line separators. Bytes that are no UTF-8
// become \ufffd. JSON and TOML read these escapes as the characters, so escaped
// JSON or TOML has the same meaning.
func Escape(text string) string {
	first := strings.IndexFunc(text, controls)
	if first < 0 && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if broken := r == utf8.RuneError && size == 1; broken || controls(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	return b.String()
}

// Line is Escape for a text that must stay on its line: line ends and tabs are
// written as \n, \r and \t.
func Line(text string) string { return Escape(lineEnds.Replace(text)) }

var lineEnds = strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`)

// controls reports whether a character controls a terminal.
func controls(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case unicode.IsControl(r):
		return true
	}
	return unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// A Writer escapes everything that is written to W. Each call of Write must end at
// the end of a character.
type Writer struct{ W io.Writer }

// Write implements [io.Writer].
func (w Writer) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.W, Escape(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
