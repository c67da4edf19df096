package sampler

import "math"

// Seed derives a child seed from a parent seed and coordinates, for example (run seed; step, group, episode). It hashes
// the coordinates with SplitMix64, so the child is statistically independent of its parent and siblings.
func Seed(parent uint64, coordinates ...uint64) uint64 {
	s := mix(parent)
	for _, c := range coordinates {
		s = mix(s ^ (c+1)*0xd1342543de82ef95) // not mix(c): parent and child of one number would cancel
	}
	return s
}

func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// ShortSeed folds a seed into 31 bits, for servers with 32-bit seeds. Some of them read a negative seed as "any seed".
func ShortSeed(seed uint64) int64 { return int64(uint32(seed)^uint32(seed>>32)) & math.MaxInt32 }
