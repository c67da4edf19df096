package memory_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/memorytest"
)

func TestExportAndImport(t *testing.T) {
	from := memorytest.DB(t)
	counting := func(c *memory.Config) { c.Novelty = memory.NoveltyStates }
	b := openBank(t, from, counting)
	learn(t, b,
		episode(0, "go north", 1, "a hall", "some kitchen"),
		episode(1, "stay \"here\"", 2, "a hall"),
		episode(2, "", 0, "dark cellar", "dark cellar"))
	commit(t, from, b)
	learn(t, b, episode(3, "go north", 0, "a hall"))
	commit(t, from, b)
	var lines bytes.Buffer
	if err := b.Export(t.Context(), &lines); err != nil {
		t.Fatal(err)
	}

	into := openBank(t, memorytest.DB(t), counting)
	recall(t, into, "s", "a hall") // loads the scope before the import
	tips, err := into.Import(t.Context(), bytes.NewReader(lines.Bytes()), nil)
	if err != nil || tips != 3 {
		t.Fatalf("imported %d tips, error %v; want 3", tips, err)
	}
	for _, state := range []string{"a hall", "some kitchen", "dark cellar"} {
		if diff := cmp.Diff(recall(t, b, "s", state), recall(t, into, "s", state)); diff != "" {
			t.Errorf("at %q (-exported +imported):\n%s", state, diff)
		}
	}
	var again bytes.Buffer
	if err := into.Export(t.Context(), &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lines.String(), again.String()); diff != "" {
		t.Errorf("exported again (-first +second):\n%s", diff)
	}
}

func TestAFailedImportChangesNothing(t *testing.T) {
	const header = `{"kind":"bank","format":1,"embedder":"x"}` + "\n"
	const tip = `{"kind":"tip","tip":{"scope":"s","text":"go north","score":1},"states":["a hall"]}` + "\n"
	f := func(lines, want string) {
		t.Helper()
		b := openBank(t, memorytest.DB(t))
		_, err := b.Import(t.Context(), strings.NewReader(lines), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if got := texts(recall(t, b, "s", "a hall")); len(got) != 0 {
			t.Errorf("after an error the bank holds %v", got)
		}
	}
	f("", "record 1: EOF")
	f(tip, `record 1 is of kind "tip"`)
	f(header+tip+header, `record 3 is of kind "bank"`)
	f(`{"kind":"bank","format":2}`, "the format is 2")
	f(header+tip+"{", "record 3")
	f(header+tip+`{"kind":"other"}`, "is not a record of a bank")
	f(header+tip+`{"kind":"tip","tip":{"text":"x"},"states":["a"]}`, "the scope is empty")
}

func TestTipsAreListed(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db)
	other := episode(2, "look", 0, "a hall")
	other.Scope = "other"
	learn(t, b, episode(0, "go north", 1, "a hall"), episode(1, "stay", 2, "a hall"), other)
	commit(t, db, b)
	f := func(scope string, want ...string) {
		t.Helper()
		tips, err := b.Tips(t.Context(), scope)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, texts(memory.Recollection{Tips: tips})); diff != "" {
			t.Errorf("tips of %q (-want +got):\n%s", scope, diff)
		}
	}
	f("s", "stay", "go north")
	f("", "look", "stay", "go north")
	f("none")
}
