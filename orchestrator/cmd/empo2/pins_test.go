package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

func TestChangedPins(t *testing.T) {
	f := func(before, now map[string]string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, changedPins(before, now)); diff != "" {
			t.Error(diff)
		}
	}
	type m = map[string]string
	f(m{}, m{templatePin: "1", modelPin + "config.json": "1"}) // a new run
	f(m{templatePin: "1"}, m{templatePin: "1"})
	f(m{templatePin: "1"}, m{templatePin: "2"}, templatePin)
	f(m{templatePin: "1", tokenizerPin: "1"}, m{}) // a server that takes messages
	f(m{modelPin + "a": "1"}, m{}, []string(nil)...)
	f(m{modelPin + "a": "1", modelPin + "b": "1"}, m{modelPin + "a": "1"}, modelPin+"b")
	f(m{modelPin + "a": "1"}, m{modelPin + "a": "1", modelPin + "b": "1"}, modelPin+"b (new)")
}

// try and ab do not serve an adapter on another model than it was trained on.
func TestAVersionNeedsTheModelThatItWasTrainedOn(t *testing.T) {
	t.Setenv("EMPO2_CACHE", t.TempDir())
	model := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(model, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config.json", "{}")
	write("tokenizer.json", "{}")
	l, err := ledger.Open(t.Context(), filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := source{config: config.Config{Model: config.Model{Path: model}}, run: l, version: 3}
	pins, err := filePins(t.Context(), s.config, tools{})
	if err == nil {
		pins[ggufPin] = "another"
		err = l.SavePins(t.Context(), 0, pins, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.checkModel(t.Context(), tools{}); err != nil {
		t.Error(err)
	}
	write("tokenizer.json", `{"other": 1}`)
	err = s.checkModel(t.Context(), tools{})
	if err == nil || !strings.Contains(err.Error(), "another model: model file tokenizer.json\n  hint: restore") {
		t.Error(err)
	}
	s.version = 0 // the base model
	if err := s.checkModel(t.Context(), tools{}); err != nil {
		t.Error(err)
	}
}

// A template that writes today's date has the same record every day.
func TestDatesInTemplates(t *testing.T) {
	day := time.Date(2026, 3, 5, 12, 0, 0, 0, time.UTC)
	f := func(text, want string) {
		t.Helper()
		if got := withoutDate(text, day); got != want {
			t.Errorf("%q: got %q", text, got)
		}
	}
	f("Today Date: 05 Mar 2026\n", "Today Date: <date>\n")
	f("The current date is 2026-03-05.", "The current date is <date>.")
	f("March 5, 2026", "<date>")
	f("Today Date: 26 Jul 2024", "Today Date: 26 Jul 2024")
}

// The checksum of a large file is computed again if the file has changed.
func TestChecksumsOfLargeFilesAreKept(t *testing.T) {
	dir := t.TempDir()
	large, cache := filepath.Join(dir, "large"), filepath.Join(dir, "sums.json")
	write := func(first byte) {
		t.Helper()
		text := make([]byte, largeFile)
		text[0] = first
		if err := os.WriteFile(large, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum := func() string {
		t.Helper()
		s := openSums(cache)
		out, err := s.of(large)
		if err != nil {
			t.Fatal(err)
		}
		s.save()
		return out
	}
	write(1)
	stamp := time.Now().Add(-time.Hour)
	if err := os.Chtimes(large, stamp, stamp); err != nil {
		t.Fatal(err)
	}
	first := sum()
	if known := openSums(cache).known; len(known) != 1 || sum() != first {
		t.Errorf("kept %v", known)
	}
	write(2)
	if sum() == first {
		t.Error("a changed file has the checksum of before")
	}
}
