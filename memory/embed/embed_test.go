package embed_test

import (
	"context"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/memory/embed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNGramVectorIsFixed(t *testing.T) {
	vectors, err := embed.NGram{}.Embed(t.Context(), "Door 2 of 4 is iron.")
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]float64{}
	for i, f := range vectors[0] {
		if f != 0 {
			got[i] = math.Round(float64(f) * math.Sqrt(24))
		}
	}
	// Four words count 1 each, three pairs and two triples 2 each.
	want := map[int]float64{108: -2, 155: 1, 179: 2, 223: 1, 258: 2, 307: 2, 326: 1, 330: 2, 333: -1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
}

func TestNGram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		vectors, err := embed.NGram{}.Embed(context.Background(), text, text+" ")
		if err != nil {
			t.Fatal(err)
		}
		length := dot(vectors[0], vectors[0])
		if len(vectors[0]) != 384 || length != 0 && (length < 0.9999 || length > 1.0001) {
			t.Errorf("%d components of squared length %v", len(vectors[0]), length)
		}
		if diff := cmp.Diff(vectors[0], vectors[1]); diff != "" {
			t.Errorf("a space at the end changes the vector:\n%s", diff)
		}
	})
	f := func(text string) {
		t.Helper()
		vectors, err := embed.NGram{}.Embed(t.Context(), text)
		if err != nil || dot(vectors[0], vectors[0]) != 0 {
			t.Errorf("%q has no words, but its vector is not zero (error %v)", text, err)
		}
	}
	f("")
	f(" .,; ")
	f("It is you.")
}
