package webshop

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The values in this file were printed by CPython 3.11.

func TestRandomEqualsPython(t *testing.T) {
	r := newPyRandom(42)
	if got := r.float64(); got != 0.6394267984578837 {
		t.Errorf("random() = %v", got)
	}
	if got := r.uniform(3.5, 9.25); got != 3.6438118425303347 {
		t.Errorf("uniform(3.5, 9.25) = %v", got)
	}
	if diff := cmp.Diff([]int{2, 0}, r.sample(4, 2)); diff != "" {
		t.Errorf("sample(range(4), 2):\n%s", diff)
	}
	if diff := cmp.Diff([]int{228, 142, 754, 104, 692}, r.sample(1000, 50)[:5]); diff != "" {
		t.Errorf("sample(range(1000), 50):\n%s", diff)
	}
}

func TestStringsEqualPython(t *testing.T) {
	f := func(name, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	f("lower", pyLower("ÀΣΑΣ' İⅣΣ ΣΑ"), "àσας' i̇ⅳς σα")
	f("strip", pyStrip("\x1c\u00a0\u0085 a \u3000\v"), "a")
	f("repr", pyRepr("it's"), `"it's"`)
	f("repr", pyRepr("\"it's\"\n\\\u00a0\u200b\U000e0001é"), `'"it\'s"\n\\\xa0\u200b\U000e0001é'`)
	f("float", pyFloat(100), "100.0")
	f("float", pyFloat(1e16), "1e+16")
	f("float", pyFloat(1e-5), "1e-05")
	f("float", pyFloat(123456789012345.6), "123456789012345.6")
	f("float", pyFloat(0), "0.0")
	f("json", optionsJSON([]selection{{"b", "é\"\x7f"}, {"a", "\U0001f600\n"}}),
		`{"b": "\u00e9\"`+"\x7f"+`", "a": "\ud83d\ude00\n"}`)
	f("tojson", optionsHTML([]selection{{"b", "<'>"}, {"a", "&"}}), `{"a": "\u0026", "b": "\u003c\u0027\u003e"}`)
}

// The numbers are those of thefuzz 0.19.0 with difflib.
func TestTokenSetRatio(t *testing.T) {
	m := new(matcher)
	f := func(a, b string, want int) {
		t.Helper()
		if got := m.tokenSetRatio(a, b); got != want {
			t.Errorf("token_set_ratio(%q, %q) = %d, want %d", a, b, got, want)
		}
	}
	f("large", "('size', 'large')", 100)
	f("!!", "!!", 0)
	f("", "a", 0)
	f("easy to clean", "clean easily", 80)
	f("stainless steel", "steel, stainless", 100)
	f("crème", "crme", 100)
}

func TestPopularElementsAreIgnored(t *testing.T) {
	long := make([]byte, 0, 400)
	for i := range 400 {
		long = append(long, "ab"[i%2])
	}
	m := new(matcher)
	if got := m.ratio("ba", string(long)); got != 0 {
		t.Errorf("ratio = %v, want 0 as every character of b is popular", got)
	}
	if got := m.ratio("ba", string(long[:100])); math.Abs(got-4.0/102) > 1e-15 {
		t.Errorf("ratio = %v, want 4/102", got)
	}
}

func TestParseAction(t *testing.T) {
	f := func(action, name, arg string) {
		t.Helper()
		if n, a := parseAction(action); n != name || a != arg {
			t.Errorf("%q = %q, %q, want %q, %q", action, n, a, name, arg)
		}
	}
	f("search[mug]", "search", "mug")
	f("click[a[b]] and more", "click[a", "b]")
	f("click[x]] y", "click", "x]")
	f("search[]", "search[]", "")
	f("[mug]", "[mug]", "")
	f("search[\nmug]", "search[\nmug]", "")
	f("search[mug]\nclick[x]", "search", "mug")
	f("a[]b]", "a", "]b")
	f("buy now", "buy now", "")
	f("", "", "")
}
