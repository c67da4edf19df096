package trainerbridge

import (
	"context"
	"encoding/json"
)

type rowsDoneKey struct{}

// rowsDone is told how far a call is.
type rowsDone struct {
	told   func(done int)
	before []int // rows of the call in the requests before each one; nil: of one request
}

// WithRowsDone returns a context for ForwardBackward and Forward. told is called while
// the trainer works, with the rows of the call that are done, if the trainer says so.
func WithRowsDone(ctx context.Context, told func(done int)) context.Context {
	return context.WithValue(ctx, rowsDoneKey{}, rowsDone{told: told})
}

// splitInto says that a call sends its rows in parts.
func splitInto(ctx context.Context, parts [][]datum) context.Context {
	r, ok := ctx.Value(rowsDoneKey{}).(rowsDone)
	if !ok {
		return ctx
	}
	n := 0
	r.before = nil
	for _, part := range parts {
		r.before = append(r.before, n)
		n += len(part)
	}
	return context.WithValue(ctx, rowsDoneKey{}, r)
}

// tellRows tells how far part i of a call is. rows is what the trainer says: the rows of
// the part that are done, and all of them. Other trainers may say something else.
func tellRows(ctx context.Context, i int, rows json.RawMessage) {
	r, ok := ctx.Value(rowsDoneKey{}).(rowsDone)
	var counts []int
	if !ok || i >= len(r.before) || json.Unmarshal(rows, &counts) != nil || len(counts) != 2 {
		return
	}
	if done, all := counts[0], counts[1]; done >= 0 && done <= all {
		r.told(r.before[i] + done)
	}
}
