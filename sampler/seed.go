package sampler

import "math"

// Seed derives a child seed from a parent and the coordinates of the child,
// for example (run seed; step, group, episode). Children of one parent are
// unrelated to each other and to the parent (SplitMix64 over the coordinates).
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

// ShortSeed folds a seed into 31 bits, for servers that take no more: a
// negative one means "any" to some.
func ShortSeed(seed uint64) int64 { return int64(uint32(seed)^uint32(seed>>32)) & math.MaxInt32 }
