// Package culprit finds the parts of a request because of which it fails, by
// repeating the request with some of its parts. Start with [Find].
package culprit

import (
	"context"
	"slices"
)

// Fails repeats the request with some of its parts, which it names by their
// indices, and reports whether the request fails. An error ends the search.
type Fails func(ctx context.Context, parts []int) (bool, error)

// maxTogether bounds the parts that are found one by one because parts fail only
// together.
const maxTogether = 8

// Find returns those of n parts that fail alone. If parts fail only together, it
// returns some without which the others do not fail. It returns none if the
// request does not fail again.
func Find(ctx context.Context, n int, fails Fails) ([]int, error) {
	if n == 0 {
		return nil, nil
	}
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return search{fails}.run(ctx, all)
}

type search struct{ fails Fails }

func (s search) run(ctx context.Context, parts []int) ([]int, error) {
	if fails, err := s.fails(ctx, parts); err != nil || !fails {
		return nil, err
	}
	if len(parts) == 1 {
		return parts, nil
	}
	half := len(parts) / 2
	first, err := s.run(ctx, parts[:half])
	if err != nil {
		return nil, err
	}
	second, err := s.run(ctx, parts[half:])
	if err != nil {
		return nil, err
	}
	if found := append(first, second...); len(found) > 0 {
		return found, nil
	}
	return s.together(ctx, parts, half)
}

// together returns parts without which the others do not fail. The first good
// parts do not fail, and all of them do. It adds parts to the good ones until they
// fail: the last one is to blame.
func (s search) together(ctx context.Context, parts []int, good int) ([]int, error) {
	var found []int
	for len(found) < maxTogether {
		bad := len(parts)
		for bad-good > 1 {
			middle := (good + bad) / 2
			fails, err := s.fails(ctx, parts[:middle])
			if err != nil {
				return nil, err
			}
			if fails {
				bad = middle
			} else {
				good = middle
			}
		}
		found = append(found, parts[bad-1])
		parts = slices.Concat(parts[:bad-1], parts[bad:])
		if good == len(parts) {
			return found, nil
		}
		if fails, err := s.fails(ctx, parts); err != nil || !fails {
			return found, err
		}
	}
	return append(found, parts[good:]...), nil
}
