package llamacpp

import "github.com/empo2/empo2/sampler/admission"

// cached is what the cache of one slot has.
type cached struct {
	tokens []int32         // the last prompt and reply
	end    <-chan struct{} // closed when their session has ended; nil: it has
}

// lives says whether the session will send further requests.
func (c cached) lives() bool {
	if c.end == nil {
		return false
	}
	select {
	case <-c.end:
		return false
	default:
		return true
	}
}

// A slotCache has the content of every slot's cache. Only the request that holds a
// slot writes its element. The queue of the slots orders these writes before the
// reads of gain.
type slotCache []cached

// gain returns the gain of a free slot for a prompt: the tokens that need not be
// computed again. If the slot's session still lives, for example while it waits for
// its environment, the gain is minus the tokens that the session would lose. An
// empty slot is better than one with less than half of the prompt, so that unlike
// prompts spread over the slots.
func (c slotCache) gain(prompt []int32) func(*admission.Place) int {
	return func(p *admission.Place) int {
		slot := c[p.Index]
		kept := commonPrefix(prompt, slot.tokens)
		switch {
		case len(slot.tokens) == 0:
			return len(prompt) / 2
		case slot.lives():
			return kept - len(slot.tokens)
		}
		return kept
	}
}

// commonPrefix returns the number of tokens at which a and b begin to differ.
func commonPrefix(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
