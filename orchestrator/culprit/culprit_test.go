package culprit

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestFind(t *testing.T) {
	f := func(n int, fails func(parts []int) bool, want ...int) {
		t.Helper()
		got, err := Find(t.Context(), n, func(_ context.Context, parts []int) (bool, error) { return fails(parts), nil })
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	has := func(bad ...int) func([]int) bool {
		return func(parts []int) bool {
			return slices.ContainsFunc(bad, func(b int) bool { return slices.Contains(parts, b) })
		}
	}
	f(8, has())
	f(1, has(0), 0)
	f(8, has(5), 5)
	f(9, has(0, 4, 8), 0, 4, 8)
	f(6, func(parts []int) bool { return slices.Contains(parts, 1) && slices.Contains(parts, 4) }, 4)
	f(40, func(parts []int) bool { return len(parts) > 30 }, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39)
	f(0, has())
}

func TestFindEndsWithTheErrorOfAnAttempt(t *testing.T) {
	stop, calls := errors.New("stop"), 0
	_, err := Find(t.Context(), 8, func(context.Context, []int) (bool, error) {
		if calls++; calls == 3 {
			return false, stop
		}
		return true, nil
	})
	if !errors.Is(err, stop) || calls != 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
}
