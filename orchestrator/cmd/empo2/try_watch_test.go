package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A change is told once, when the file has the same content for an interval. What was
// saved before the last change was taken is not told again.
func TestWatchFile(t *testing.T) {
	t.Chdir(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		save := func(text string) {
			if err := os.WriteFile("mine.tmpl", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		save("one")
		ctx, stop := context.WithCancel(t.Context())
		defer func() { stop(); synctest.Wait() }()
		saved := watchFile(ctx, "mine.tmpl")
		told := func(want bool) {
			t.Helper()
			time.Sleep(4 * pollInterval)
			synctest.Wait()
			select {
			case <-saved:
				if !want {
					t.Error("told without a change")
				}
			default:
				if want {
					t.Error("a change was not told")
				}
			}
		}
		told(false)
		save("two")
		told(true)
		told(false)
		save("one")
		time.Sleep(pollInterval)
		save("two") // the content is what it was
		told(false)
		if err := os.Remove("mine.tmpl"); err != nil {
			t.Fatal(err)
		}
		told(true) // a file that is missing is a fault
		save("three")
		told(true)
	})
}

// written is what a command prints while it runs.
type written struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (s *written) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *written) count(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.out.String(), part)
}

// Each save of the prompt template is tried with the same server and the same seeds. A
// faulty template is named, and the next save is tried. Ctrl-C ends it without an error.
func TestTryWatch(t *testing.T) {
	w := fakeWorld(t)
	empo2(t, 0, "prompt", "--profile", "demo", "--write", ".")
	plain, err := os.ReadFile("plain.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	save := func(text string) {
		if err := os.WriteFile("mine.tmpl", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save(string(plain))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var s written
	code := make(chan int)
	go func() {
		code <- execute(ctx, []string{"try", "--profile", "demo", "-c", "server.toml", "--prompt", "mine.tmpl", "--watch",
			"-k", "2"}, &s, &s)
	}()
	const waiting = "waiting for the next save of mine.tmpl"
	eventually(t, "the first round", func() bool { return s.count(waiting) == 1 })
	first := seedsOf(w)
	save(strings.Replace(string(plain), `{{define "state"}}`, `{{define "state"}}Now: `, 1))
	eventually(t, "the second round", func() bool { return s.count(waiting) == 2 })
	if s.count("Now: Levers") != 1 || s.count("summary") != 2 {
		t.Errorf("%s", s.out.String())
	}
	second := seedsOf(w)
	for seed := range second {
		if !first[seed] {
			t.Errorf("seed %d is new", seed)
		}
	}
	if len(second) != 2 {
		t.Errorf("%d requests in the second round", len(second))
	}
	save("{{define")
	eventually(t, "the faulty template", func() bool { return s.count(waiting) == 3 })
	if s.count("prompt template mine.tmpl: ") != 1 || s.count("  hint: ") != 1 || s.count("summary") != 2 {
		t.Errorf("%s", s.out.String())
	}
	stop()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d\n%s", got, s.out.String())
	}
}

func seedsOf(w *wire) map[int64]bool {
	out := map[int64]bool{}
	for _, r := range w.take() {
		if r.Seed != nil {
			out[*r.Seed] = true
		}
	}
	return out
}
