package safetext

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEscape(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := Escape(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	f("a door\n\tand a lever: äöü 漢字 👩‍🚀", "a door\n\tand a lever: äöü 漢字 👩‍🚀")
	f("\x1b[2J\x1b]0;title\a", `\u001b[2J\u001b]0;title\u0007`)
	f("done\rFAILED\b\x00\x7f", `done\u000dFAILED\u0008\u0000\u007f`)
	f("\u009b31m", `\u009b31m`)
	f("\x9b31m\xff", `\ufffd31m\ufffd`)
	f("\u202e\u2066\u200f\u061c", `\u202e\u2066\u200f\u061c`)
	f("a\u2028b\u2029c", `a\u2028b\u2029c`)
	f("\ufffd", "\ufffd")
	if got := Line("one\ntwo\r\tthree\x1b"); got != `one\ntwo\r\tthree\u001b` {
		t.Errorf("line: %s", got)
	}
}

// Escaped JSON has the same meaning, so the output of --json may be escaped.
func TestEscapedJSONHasTheSameMeaning(t *testing.T) {
	want := "\\\u009b\x1b\u202e\x7f\"ok\""
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal([]byte(Escape(string(text))), &got); err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("\x1b[31mred\u202e")
	f.Fuzz(func(t *testing.T, text string) {
		got := Escape(text)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, controls) {
			t.Errorf("%q is not harmless", got)
		}
		if again := Escape(got); again != got {
			t.Errorf("%q becomes %q the second time", got, again)
		}
	})
}

func TestRedactor(t *testing.T) {
	const secret = `sk-a/b+c"d&e\f`
	r := NewRedactor(secret, "abc", "")
	for name, form := range map[string]string{
		"raw": secret, "query": url.QueryEscape(secret), "path": url.PathEscape(secret),
		"lower": "sk-a%2fb%2bc%22d%26e%5cf",
		"json":  `sk-a/b+c\"d&e\\f`, "json for HTML": `sk-a/b+c\"d\u0026e\\f`, "json of PHP": `sk-a\/b+c\"d&e\\f`,
		"html": "sk-a/b+c&#34;d&amp;e\\f", "base64": "c2stYS9iK2MiZCZlXGY=",
	} {
		text := "the header is " + form + "."
		if got, want := r.Text(text), "the header is [key]."; strings.Replace(got, "]=", "]", 1) != want {
			t.Errorf("%s: %q", name, got)
		}
		if got := string(r.Content([]byte(text))); strings.Contains(got, form) {
			t.Errorf("%s: the content has it: %q", name, got)
		}
	}
	if got := r.Text("abc"); got != "abc" {
		t.Errorf("a short secret: %q", got)
	}
}

// The key EMPTY is usual, and an observation may have the word or the number.
func TestContentsKeepWordsAndNumbers(t *testing.T) {
	r := NewRedactor("EMPTY", "12345678")
	if got := string(r.Content([]byte("EMPTY [12345678]"))); got != "EMPTY [12345678]" {
		t.Error(got)
	}
	if got := r.Text("EMPTY 12345678"); got != "[key] [key]" {
		t.Error(got)
	}
	if got := (Redactor{}).Text("a"); got != "a" {
		t.Error(got)
	}
}

func TestURL(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := URL(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	f("http://h:80/v1", "http://h:80/v1")
	f("https://user:secret@h/v1", "https://h/v1")
	f("https://secret@h", "https://h")
	for _, text := range []string{"http://u:secret@h:port", "u:secret@h", "http://u:sec ret@h", "http://u:secret@h%zz"} {
		if got := URL(text); strings.Contains(got, "ret@") {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestUserSecrets(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := UserSecrets(u); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	f("http://h")
	f("http://bob:hunter2@h", "Ym9iOmh1bnRlcjI=", "hunter2")
	f("http://token@h", "dG9rZW46", "token")
}
