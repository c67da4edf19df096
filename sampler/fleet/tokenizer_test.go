package fleet

import (
	"context"
	"errors"
	"testing"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// tokenizerFunc is a tokenizer that calls a function.
type tokenizerFunc func(ctx context.Context) ([]int32, error)

func (f tokenizerFunc) Tokenize(ctx context.Context, _ string) ([]int32, error) { return f(ctx) }

func TestComparisonOfTokenizersHasAName(t *testing.T) {
	b, _ := open(t, Config{}, &fake{name: "http://one"})
	defer b.Close()
	ctx, seen := watchdog.With(t.Context(), watchdog.New()), errors.New("seen")
	var shown []watchdog.Item
	err := b.CompareTokenizers(ctx, tokenizerFunc(func(ctx context.Context) ([]int32, error) {
		shown = watchdog.From(ctx).Status().InFlight
		return nil, seen
	}))
	const want = "compare its tokenizer with the model's: http://one"
	if !errors.Is(err, seen) || len(shown) != 1 || shown[0].What != want {
		t.Errorf("waiting for %+v, want %q; %v", shown, want, err)
	}
}
