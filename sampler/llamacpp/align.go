package llamacpp

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// An entry is the server's word on one sampled token.
type entry struct {
	ID      int32    `json:"id"`
	Logprob *float32 `json:"logprob"` // nats at temperature 1, whatever was asked for; null: not finite
}

const (
	// slack is how far above 0 rounding may lift a log-prob.
	slack = 1e-4
	// impossible is what the server says for a probability of 0, about.
	impossible = -1e30
	// longestGap is how many tokens in a row may lack an entry at the end of
	// an answer: the bytes of an unfinished UTF-8 character.
	longestGap = 3
)

// align gives every id its log-prob. The server leaves out tokens after which
// the text ends within a UTF-8 character; these gaps are NaN, and so are
// the last tokens of a reply that ended at a stop string. So is a token
// whose entry could as well belong to a neighbour: only entries whose place is
// the same whether they are matched from the left or from the right are used.
func align(ids []int32, entries []entry) ([]float32, error) {
	left, right := match(ids, entries, false), match(ids, entries, true)
	if left == nil || right == nil {
		return nil, fmt.Errorf("%d log-probs do not belong to the %d sampled ids", len(entries), len(ids))
	}
	if len(entries) == 0 && len(ids) > longestGap {
		return nil, errors.New("no log-probs\n  hint: the server must not be built or set to sample on the device (backend sampling)")
	}
	out := gaps(len(ids))
	for k, e := range entries {
		if left[k] != right[k] || e.Logprob == nil || *e.Logprob < impossible {
			continue
		}
		if *e.Logprob > slack {
			return nil, fmt.Errorf("log-prob %v of id %d is positive", *e.Logprob, e.ID)
		}
		out[left[k]] = min(*e.Logprob, 0)
	}
	return out, nil
}

// gaps are log-probs that are not known.
func gaps(n int) []float32 { return slices.Repeat([]float32{float32(math.NaN())}, n) }

// match finds the ids that the entries speak of, in order, as far left or as
// far right as possible. It is nil if there is no such match.
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
