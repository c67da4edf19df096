package memory_test

import (
	"strings"
	"testing"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/memorytest"
)

// A pinned tip stays although its scope is full, its copies too, and a removed one goes
// with its states.
func TestTipsArePinnedAndRemoved(t *testing.T) {
	db := memorytest.DB(t)
	bank := openBank(t, db, func(c *memory.Config) { c.Capacity = 2 })
	write := func(text, state string) {
		t.Helper()
		learn(t, bank, memory.Experience{Scope: "s", States: []string{state}, Tip: memory.Tip{Text: text}})
		commit(t, db, bank)
	}
	edit := func(e memory.Edit, text string) error {
		t.Helper()
		records, err := e.Records("s", text)
		if err == nil {
			_, err = bank.Import(t.Context(), strings.NewReader(records), nil)
		}
		return err
	}
	f := func(want string) {
		t.Helper()
		tips, err := bank.Tips(t.Context(), "s")
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for i := len(tips) - 1; i >= 0; i-- { // the newest is first
			texts = append(texts, tips[i].Text)
		}
		if got := strings.Join(texts, " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	pinned := func(want string) {
		t.Helper()
		var texts []string
		err := memory.Pinned(t.Context(), db, func(scope, text string) { texts = append(texts, scope+"/"+text) })
		if got := strings.Join(texts, " "); err != nil || got != want {
			t.Errorf("pinned: %s, %v, want %s", got, err, want)
		}
	}
	write("a", "x")
	if err := edit(memory.Pin, "a"); err != nil {
		t.Fatal(err)
	}
	pinned("s/a")
	write("b", "y")
	write("c", "z")
	write("d", "w")
	f("a c d")
	write("a", "x") // replaces the copy, which was pinned
	write("e", "v")
	write("f", "u")
	f("a e f")
	if err := edit(memory.Unpin, "a"); err != nil {
		t.Fatal(err)
	}
	pinned("")
	write("g", "t")
	f("f g")
	if err := edit(memory.Remove, "f"); err != nil {
		t.Fatal(err)
	}
	f("g")
	if err := edit(memory.Remove, "f"); err == nil || !strings.Contains(err.Error(), "no such tip") {
		t.Errorf("a tip that is gone: %v", err)
	}
	if found := recall(t, bank, "s", "u"); len(found.Tips) > 0 {
		t.Errorf("%+v", found)
	}
}
