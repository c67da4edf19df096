package llamacpp

import (
	"errors"
	"fmt"

	"github.com/empo2/empo2/sampler"
)

// An entry is the server's log-prob of one sampled token.
type entry struct {
	ID      int32    `json:"id"`
	Logprob *float32 `json:"logprob"` // nats at temperature 1; null: not finite
}

const (
	// maxLogprob allows for rounding above 0.
	maxLogprob = 1e-4
	// impossible is less than any log-prob except that of probability 0.
	impossible = -1e30
	// longestGap is how many tokens at the end of an answer may have no entry: the
	// bytes of an incomplete UTF-8 character.
	longestGap = 3
)

// align assigns a log-prob to every id. The server omits tokens that end within a
// UTF-8 character, and the last tokens of a reply that ended at a stop string.
// Their log-probs are NaN. A log-prob is also NaN if its entry could belong to
// another id: an entry is used only if it matches the same id from the left and
// from the right.
func align(ids []int32, entries []entry) ([]float32, error) {
	left, right := match(ids, entries, false), match(ids, entries, true)
	if left == nil || right == nil {
		return nil, fmt.Errorf("%d log-probs do not belong to the %d sampled ids", len(entries), len(ids))
	}
	if len(entries) == 0 && len(ids) > longestGap {
		return nil, errors.New("no log-probs\n" +
			"  hint: the server must not be built or set to sample on the device (backend sampling)")
	}
	out := sampler.UnknownLogprobs(len(ids))
	for k, e := range entries {
		if left[k] != right[k] || e.Logprob == nil || *e.Logprob < impossible {
			continue
		}
		if *e.Logprob > maxLogprob {
			return nil, fmt.Errorf("log-prob %v of id %d is positive", *e.Logprob, e.ID)
		}
		out[left[k]] = min(*e.Logprob, 0)
	}
	return out, nil
}

// match assigns entries to ids, in order, as far left or as far right as
// possible. It returns nil if that is impossible.
func match(ids []int32, entries []entry, fromRight bool) []int {
	at := make([]int, len(entries))
	i, step := 0, 1
	if fromRight {
		i, step = len(ids)-1, -1
	}
	for n := range entries {
		k := n
		if fromRight {
			k = len(entries) - 1 - n
		}
		for i >= 0 && i < len(ids) && ids[i] != entries[k].ID {
			i += step
		}
		if i < 0 || i >= len(ids) {
			return nil
		}
		at[k] = i
		i += step
	}
	return at
}
