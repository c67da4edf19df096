package llamacpp

import (
	"strconv"
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// A new session gets the slot that has most of its prompt, but not that of a
// session that is still running.
func TestANewSessionGetsTheSlotWithItsPrefix(t *testing.T) {
	f := newFakes()
	b, p := f.serve(t, Config{Slots: 4}) // one has the check of the process
	prompt := func(ids ...int32) []int32 { return append([]int32{samplertest.Start}, ids...) }
	sessions := 0
	slotOf := func(end <-chan struct{}, ids ...int32) int {
		t.Helper()
		sessions++
		r := sampler.Request{Prompt: prompt(ids...), MaxTokens: 4, Temperature: 1, Session: strconv.Itoa(sessions),
			SessionEnd: end}
		if _, err := b.Sample(t.Context(), p, r); err != nil {
			t.Fatal(err)
		}
		requests := f.last().Requests()
		return *requests[len(requests)-1].IDSlot
	}
	runs, ended := make(chan struct{}), make(chan struct{})
	close(ended)
	first := slotOf(ended, 50, 51, 52, 53)
	second := slotOf(runs, 60, 61, 62, 63)
	third := slotOf(nil, 70, 71, 72, 73)
	if first == second || second == third || first == third {
		t.Fatalf("slots %d, %d, %d: unlike prompts share one", first, second, third)
	}
	if got := slotOf(ended, 50, 51, 52, 80); got != first {
		t.Errorf("slot %d, the prefix is in %d", got, first)
	}
	if got := slotOf(ended, 60, 61, 62, 80); got == second {
		t.Errorf("a running session lost slot %d", got)
	}
	close(runs)
	if got := slotOf(ended, 60, 61, 62, 63, 80); got != second {
		t.Errorf("slot %d, the prefix is in %d, whose session has ended", got, second)
	}
}

// A slot whose request failed has an unknown cache, and it is not preferred.
func TestAFailedRequestLeavesNoPrefix(t *testing.T) {
	f := newFakes()
	f.prepare = faultAt(1, samplertest.FaultGarbage)
	b, p := f.serve(t, Config{Slots: 2})
	if _, err := b.Sample(t.Context(), p, testRequest); err == nil {
		t.Fatal("garbage was accepted")
	}
	requests := f.last().Requests()
	failed := *requests[len(requests)-1].IDSlot
	if c := b.base.replicas[0].now.cache[failed]; c.tokens != nil {
		t.Errorf("slot %d is said to have %v", failed, c.tokens)
	}
}
