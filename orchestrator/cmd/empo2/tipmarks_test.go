package main

import (
	"testing"

	"github.com/empo2/empo2/orchestrator/view"
)

// A list of tips says which are removed and which are pinned.
func TestTipsAreMarked(t *testing.T) {
	for want, tip := range map[string]view.Tip{"removed": {}, "2 pinned": {Stored: 2, Pinned: true}, "3": {Stored: 3}} {
		if got := storedAs(tip); got != want {
			t.Errorf("%+v is marked %q, want %q", tip, got, want)
		}
	}
}
