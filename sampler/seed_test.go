package sampler_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/empo2/empo2/sampler"
)

// No server refuses a short seed, and both halves of the long one count.
func TestShortSeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		short := sampler.ShortSeed(seed)
		if short < 0 || short > math.MaxInt32 {
			t.Fatalf("%d is too long", short)
		}
		for _, bit := range []int{0, 30, 32, 62} {
			if sampler.ShortSeed(seed^1<<bit) == short {
				t.Fatalf("bit %d does not count", bit)
			}
		}
	})
}

func TestSeedsOfCoordinatesDiffer(t *testing.T) {
	seen := map[uint64]bool{sampler.Seed(1): true}
	for _, coordinates := range [][]uint64{{0}, {1}, {0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 0, 0}} {
		for parent := range uint64(3) {
			s := sampler.Seed(parent, coordinates...)
			if seen[s] {
				t.Errorf("seed of %d, %v came before", parent, coordinates)
			}
			seen[s] = true
		}
	}
}
