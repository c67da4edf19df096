package webshop

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// The terms are those of Lucene 8.8.1's EnglishAnalyzer.
func TestTerms(t *testing.T) {
	a := newAnalyzer(newWordClasses())
	f := func(text, want string) {
		t.Helper()
		var terms []string
		a.each(text, func(term string) { terms = append(terms, term) })
		if got := strings.Join(terms, "|"); got != want {
			t.Errorf("terms of %q = %q, want %q", text, got, want)
		}
	}
	f("The women’s shoes, size:9.5 and l/xl", "women|shoe|size|9.5|l|xl")
	f("color:red u.s.a. 1,000.5 _a_ __ don't", "color:r|u.s.a|1,000.5|_a_|don't")
	f("relational conditional rationally hopefulness skies dying aed", "relat|condit|ration|hope|ski|dy|a")
	f("茶碗 ひら カタカナ ｱﾟ 한글 ไทย", "茶|碗|ひ|ら|カタカナ|ｱﾟ|한글|ไทย")
	f("👍🏽 👩‍❤️‍👩 🇦🇧🇨 1️⃣ #️⃣ ★ ™ ☺ ℹ", "👍🏽|👩‍❤️‍👩|🇦🇧|1️⃣|#️⃣|★|™|☺|ℹ")
	f(`צה"ל ב' a'ב''c`, `צה"ל|ב'|a'ב|c`)
	f(strings.Repeat("x", 300), strings.Repeat("x", 255)+"|"+strings.Repeat("x", 45))
	f("", "")
}

// FuzzTokens: tokens are pieces of the text, in order, none empty.
func FuzzTokens(f *testing.F) {
	for _, s := range []string{"a b", "👩‍❤️‍👩", `צה"ל`, "1,2.3_x", "\xff\u200d#⃣"} {
		f.Add(s)
	}
	words := &tokenizer{table: newWordClasses()}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			text = strings.ToValidUTF8(text, "\ufffd")
		}
		rest := text
		words.each(text, func(token string) {
			_, after, ok := strings.Cut(rest, token)
			if token == "" || !ok {
				t.Fatalf("token %q is not in %q", token, rest)
			}
			rest = after
		})
	})
}
