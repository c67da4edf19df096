package sampler_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/empo2/empo2/sampler"
)

// A short seed fits 31 bits, and both halves of the long seed influence it.
func TestShortSeedUsesAllBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		short := sampler.ShortSeed(seed)
		if short < 0 || short > math.MaxInt32 {
			t.Fatalf("%d is too long", short)
		}
		for _, bit := range []int{0, 30, 32, 62} {
			if sampler.ShortSeed(seed^1<<bit) == short {
				t.Fatalf("bit %d has no influence", bit)
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
				t.Errorf("the seed of %d, %v is a repetition", parent, coordinates)
			}
			seen[s] = true
		}
	}
}
