package memory

import (
	"context"
	"fmt"
	"slices"
)

// A RecallFunc answers as [Strategy].Recall does.
type RecallFunc func(ctx context.Context, s State) (Recollection, error)

// A Snapshotter is a [Strategy] whose memory can be kept as it is while later steps are
// committed. A run that samples a step while the step before is trained needs it, so
// that all episodes of the step see the same memory.
type Snapshotter interface {
	Strategy
	// Snapshot returns a Recall of the present memory for some scopes. It hides the tips
	// that were written after the steps after+1 to until, if the strategy knows that: a
	// run that continues a step may have committed them since the step began. What these
	// tips have replaced is not brought back, and the visits of states are those of now.
	Snapshot(ctx context.Context, scopes []string, after, until int64) (RecallFunc, error)
}

var _ Snapshotter = (*Bank)(nil)

// Snapshot implements [Snapshotter]. It keeps the scopes in RAM for as long as the
// function that it returns.
func (b *Bank) Snapshot(ctx context.Context, scopes []string, after, until int64) (RecallFunc, error) {
	kept := make(map[string]*index, len(scopes))
	for _, scope := range scopes {
		if kept[scope] != nil {
			continue
		}
		x, err := b.index(ctx, scope)
		if err != nil {
			return nil, fmt.Errorf("keep scope %q: %w", scope, err)
		}
		kept[scope] = x.without(after, until)
	}
	return func(ctx context.Context, s State) (Recollection, error) {
		x := kept[s.Scope]
		if x == nil {
			return Recollection{}, fmt.Errorf("recall in scope %q: it is not in the snapshot", s.Scope)
		}
		return b.recall(ctx, s, func() (*index, error) { return x, nil })
	}, nil
}

// without returns the scope without the tips of the steps after+1 to until.
func (x *index) without(after, until int64) *index {
	hidden := func(e entry) bool { return e.tip.Step > after && e.tip.Step <= until }
	if !slices.ContainsFunc(x.rows, func(r row) bool { return slices.ContainsFunc(r.entries, hidden) }) {
		return x
	}
	out := &index{matrix: x.matrix, rows: slices.Clone(x.rows)}
	for i := range out.rows {
		out.rows[i].entries = slices.DeleteFunc(slices.Clone(out.rows[i].entries), hidden)
	}
	return out
}
