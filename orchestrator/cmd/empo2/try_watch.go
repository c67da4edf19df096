package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/empo2/empo2/sampler/prompt"
)

// watch samples replies each time that the prompt template is saved, until ctx is
// done. A save while replies are sampled drops them.
func (t *trial) watch(ctx context.Context) error {
	saved := watchFile(ctx, t.config.Prompt.Template)
	for {
		texts, err := t.read()
		round, stop := context.WithCancelCause(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			t.attempt(round, texts, err)
		}()
		select {
		case <-saved:
		case <-ctx.Done():
		}
		stop(errSaved)
		<-done
		if ctx.Err() != nil {
			return nil // Ctrl-C is how it ends
		}
	}
}

var errSaved = errors.New("the prompt template was saved again")

// attempt samples replies, or says what is wrong with the template.
func (t *trial) attempt(ctx context.Context, texts prompt.Template, problem error) {
	if problem == nil {
		problem = t.round(ctx, texts)
	}
	switch {
	case ctx.Err() != nil:
		return
	case problem != nil && t.JSON:
		t.json("problem", problem.Error())
	case problem != nil:
		msg, hint := splitHint(problem)
		t.note("%s", msg)
		if hint != "" {
			t.note("  hint: %s", hint)
		}
	}
	t.note("waiting for the next save of %s; Ctrl-C ends", t.config.Prompt.Template)
}

const (
	pollInterval = 50 * time.Millisecond
	maxWatched   = 1 << 20 // of a file, in bytes; a larger one is refused when it is read
)

// watchFile sends after each change of a file's content, until ctx is done. It waits
// until the content stays the same for an interval, because editors write a file in
// several steps.
func watchFile(ctx context.Context, path string) <-chan struct{} {
	saved := make(chan struct{})
	now := contentOf(path)
	go func() {
		tick := time.NewTicker(pollInterval)
		defer tick.Stop()
		seen, told := now, now
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			before := seen
			if seen = contentOf(path); seen != before || seen == told {
				continue
			}
			select {
			case saved <- struct{}{}:
				told = seen
			case <-ctx.Done():
				return
			}
		}
	}()
	return saved
}

// contentOf returns the text of a file, "" if there is none.
func contentOf(path string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > maxWatched {
		return ""
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(text)
}
