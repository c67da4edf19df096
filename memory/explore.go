package memory

import (
	"math/rand/v2"
	"slices"
)

// explore returns the first k of r's tips. Each place goes to a random one of those that
// are left, with the probability [Config].Explore. r itself does not change.
func (b *Bank) explore(r Recollection, seed uint64) Recollection {
	if b.config.Explore == 0 {
		return r
	}
	tips := slices.Clone(r.Tips)
	k := min(b.config.K, len(tips))
	rng := rand.New(rand.NewPCG(seed, 0xe7))
	for i := range k {
		if rng.Float64() < b.config.Explore {
			j := i + rng.IntN(len(tips)-i)
			chosen := tips[j]
			copy(tips[i+1:j+1], tips[i:j]) // the others keep their order
			tips[i] = chosen
		}
	}
	r.Tips = tips[:k:k]
	return r
}

// ranked is the number of tips to rank: k, or all if others than the best may be recalled.
func (b *Bank) ranked(similar []match) int {
	if b.config.Explore == 0 {
		return b.config.K
	}
	n := 1
	for _, m := range similar {
		n += len(m.row.entries)
	}
	return n
}
