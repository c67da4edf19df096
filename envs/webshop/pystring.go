package webshop

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The original is a Python program, and several of its texts depend on Python's string
// functions. This file has these functions of Python 3.

// pySpace is str.isspace for one character.
func pySpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}

// pyStrip is str.strip().
func pyStrip(s string) string { return strings.TrimFunc(s, pySpace) }

// pyLower is str.lower(). Other than in Go, İ becomes two characters and a final Σ
// becomes ς.
func pyLower(s string) string {
	if !strings.Contains(s, "İ") && !strings.Contains(s, "Σ") {
		return strings.ToLower(s)
	}
	runes := []rune(s)
	var b strings.Builder
	for i, r := range runes {
		switch {
		case r == 'İ':
			b.WriteString("i\u0307")
		case r == 'Σ' && cased(runes, i, -1) && !cased(runes, i, 1):
			b.WriteRune('ς')
		default:
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return b.String()
}

// cased reports whether the next character in a direction has a case. It skips
// characters that are case-ignorable.
func cased(runes []rune, i, step int) bool {
	for i += step; i >= 0 && i < len(runes); i += step {
		if r := runes[i]; !caseIgnorable(r) {
			return unicode.In(r, unicode.Lu, unicode.Ll, unicode.Lt, unicode.Other_Uppercase, unicode.Other_Lowercase)
		}
	}
	return false
}

func caseIgnorable(r rune) bool {
	return strings.ContainsRune("'.:^`·’․", r) ||
		unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk)
}

// pyWord reports whether r matches \w in a Python regular expression.
func pyWord(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	}
	return unicode.In(r, unicode.L, unicode.Nd, unicode.Nl, unicode.No)
}

// pyFloat is repr(float) for a finite number.
func pyFloat(f float64) string {
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exp, _ := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if f != 0 && (exp < -4 || exp >= 16) {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// pyRepr is repr(str).
func pyRepr(s string) string {
	quote := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			b.WriteString(`\x` + hexDigits(r, 2))
		case r < 0x10000:
			b.WriteString(`\u` + hexDigits(r, 4))
		default:
			b.WriteString(`\U` + hexDigits(r, 8))
		}
	}
	b.WriteRune(quote)
	return b.String()
}

// pyJSON appends json.dumps(s), which escapes everything beyond ASCII.
func pyJSON(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r >= 0x20 && r < utf8.RuneSelf && r != 0x7f:
			b.WriteByte(byte(r))
		case r == 0x7f:
			b.WriteByte(0x7f)
		case r < 0x10000:
			b.WriteString(`\u` + hexDigits(r, 4))
		default:
			r -= 0x10000
			b.WriteString(`\u` + hexDigits(0xd800+r>>10, 4) + `\u` + hexDigits(0xdc00+r&0x3ff, 4))
		}
	}
	b.WriteByte('"')
}

func hexDigits(r rune, width int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", max(0, width-len(s))) + s
}

// pySlice is list[lo:hi].
func pySlice[T any](list []T, lo, hi int) []T {
	clamp := func(i int) int {
		if i < 0 {
			i += len(list)
		}
		return max(0, min(i, len(list)))
	}
	lo, hi = clamp(lo), clamp(hi)
	if lo >= hi {
		return nil
	}
	return list[lo:hi]
}
