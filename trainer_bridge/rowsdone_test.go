package trainerbridge

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
)

// The rows of the parts of a call are counted on. What another trainer says instead of
// two counts is ignored.
func TestRowsDoneOfACall(t *testing.T) {
	var got []int
	ctx := WithRowsDone(context.Background(), func(done int) { got = append(got, done) })
	f := func(ctx context.Context, part int, rows string) { tellRows(ctx, part, json.RawMessage(rows)) }
	f(ctx, 0, "[1,2]") // not split: another operation
	ctx = splitInto(ctx, [][]datum{make([]datum, 3), make([]datum, 2)})
	f(ctx, 0, "[2,3]")
	f(ctx, 1, "[0,2]")
	f(ctx, 1, "[2,2]")
	for _, bad := range []string{"", "null", `"x"`, "[1]", "[3,2]", "[-1,2]", "[1.5,2]", "{}"} {
		f(ctx, 1, bad)
	}
	f(ctx, 2, "[1,2]")
	f(context.Background(), 0, "[1,2]")
	if want := []int{2, 3, 5}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
