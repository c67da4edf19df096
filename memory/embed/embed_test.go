package embed_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
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

// counting records its calls. The vector of a text is its length.
type counting struct {
	mu    sync.Mutex
	asked [][]string
	err   error
}

func (*counting) Name() string { return "counting-1" }

func (c *counting) Embed(_ context.Context, texts ...string) (vectors [][]float32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, texts)
	for _, text := range texts {
		vectors = append(vectors, []float32{float32(len(text))})
	}
	return vectors, c.err
}

func TestCachedAsksForATextOnce(t *testing.T) {
	inner := &counting{}
	c := embed.NewCached(inner, 2)
	f := func(texts ...string) {
		t.Helper()
		vectors, err := c.Embed(t.Context(), texts...)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range vectors {
			if v[0] != float32(len(texts[i])) {
				t.Errorf("%q has vector %v", texts[i], v)
			}
			v[0] = -1 // must not change the cache
		}
	}
	f("a", "bb", "a")
	f("bb", "a")
	f("ccc", "a") // bb is dropped
	f("bb")
	want := [][]string{{"a", "bb"}, {"ccc"}, {"bb"}}
	if diff := cmp.Diff(want, inner.asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if c.Name() != "counting-1" {
		t.Errorf("name %q, want the inner one", c.Name())
	}
}

func TestCachedKeepsNoErrors(t *testing.T) {
	inner := &counting{err: errors.New("down")}
	c := embed.NewCached(inner, 2)
	if _, err := c.Embed(t.Context(), "a"); !errors.Is(err, inner.err) {
		t.Errorf("error %v, want %v", err, inner.err)
	}
	inner.err = nil
	if v, err := c.Embed(t.Context(), "a"); err != nil || v[0][0] != 1 {
		t.Errorf("after the error: %v, %v", v, err)
	}
}

func TestCachedConcurrently(t *testing.T) {
	c := embed.NewCached(&counting{}, 3)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 50 {
				text := strings.Repeat("x", n%7)
				if v, err := c.Embed(t.Context(), text, "y"); err != nil || v[0][0] != float32(n%7) {
					t.Errorf("%q has vector %v, error %v", text, v, err)
				}
			}
		})
	}
	wg.Wait()
}
