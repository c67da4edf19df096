package memory_test

import (
	"strings"
	"testing"

	"github.com/empo2/empo2/memory"
)

func TestCleanTip(t *testing.T) {
	f := func(reply string, limit int, want string) {
		t.Helper()
		if got := memory.CleanTip(reply, limit); got != want {
			t.Errorf("CleanTip(%q, %d) = %q, want %q", reply, limit, got, want)
		}
	}
	f("  At iron pull jade.\n", 100, "At iron pull jade.")
	f(" \n\x00\n\tpull\r\njade", 100, "pull")
	f("one\rline\u2028and\u0085more", 100, "one line and more")
	f("a\x00b\x1b[2J\tc", 100, "a b [2J c")
	f("bro\xffken", 100, "bro ken")
	f(" \n\t ", 100, "")
	f("eins zwei drei", 9, "eins zwei")
	f("eins zwei drei", 11, "eins zwei")
	f("ungetrennt", 4, "unge")
	f("größer", 5, "größe")
	f("☂☂☂☂☂☂", 5, "☂☂☂☂☂")
	long := strings.Repeat("long ", 1000) + "tip"
	f(long, 0, long)
}

func FuzzCleanTip(f *testing.F) {
	f.Add("At iron pull jade,\nat oak avoid bone.", 12)
	f.Fuzz(func(t *testing.T, reply string, limit int) {
		limit = max(limit, 1) % 1000
		tip := memory.CleanTip(reply, limit)
		if again := memory.CleanTip(tip, limit); again != tip {
			t.Errorf("tip %q becomes %q", tip, again)
		}
		if n := len([]rune(tip)); limit > 0 && n > limit {
			t.Errorf("%d characters, want at most %d", n, limit)
		}
	})
}
