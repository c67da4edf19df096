package vault

import (
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

const (
	houseDoors  = 8
	houseLevers = 12
	// Houses fall into four classes by a hash of their rule: 0 and 1 are for
	// pre-training the base policy, 2 for the gates of that pre-training and
	// 3 for reinforcement learning. No seed can make them meet.
	houseClasses = 4
	rlClass      = 3
)

// The independent random streams of a house.
const (
	houseStream uint64 = iota + 1
	deckStream
	listStream
)

// A house has eight doors, twelve levers and a hidden rule.
type house struct {
	seed   uint64
	doors  []string
	levers []string
	rule   map[string]string // door → lever, drawn with replacement
}

// newHouse draws the house of a seed: the first of the seed's stream that
// belongs to reinforcement learning.
func newHouse(seed uint64) house {
	rng := stream(seed, houseStream, 0)
	for {
		h := drawHouse(rng)
		if class(canonical(h.rule)) == rlClass {
			h.seed = seed
			return h
		}
	}
}

func drawHouse(rng *rand.Rand) house {
	h := house{
		doors:  sample(rng, doorNames[:], houseDoors),
		levers: sample(rng, leverNames[:], houseLevers),
		rule:   make(map[string]string, houseDoors),
	}
	for _, door := range h.doors {
		h.rule[door] = h.levers[rng.IntN(len(h.levers))]
	}
	return h
}

// canonical is the string that stands for a rule: its door=lever pairs sorted
// by door, joined by semicolons.
func canonical(rule map[string]string) string {
	var pairs []string
	for _, door := range slices.Sorted(maps.Keys(rule)) {
		pairs = append(pairs, door+"="+rule[door])
	}
	return strings.Join(pairs, ";")
}

// fingerprint is the 64-bit FNV-1a hash of a canonical rule.
func fingerprint(canonical string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(canonical))
	return h.Sum64()
}

func class(canonical string) int { return int(fingerprint(canonical) % houseClasses) }

// A corridor is one variation of a house: its doors in walking order, the
// levers listed at each and the right one of each.
type corridor struct {
	doors  []string
	listed [][]string
	right  []string
}

// corridor deals variation v: k doors with m levers each. A deck of all eight
// doors lasts for ⌈8/k⌉ variations, so that those show every door; when it
// runs out the last one is filled up from the top of the same deck.
func (h house) corridor(v uint64, k, m int) corridor {
	perDeck := uint64((houseDoors + k - 1) / k)
	deck := sample(stream(h.seed, deckStream, v/perDeck), h.doors, houseDoors)
	rng := stream(h.seed, listStream, v)
	var c corridor
	for i := range k {
		c.doors = append(c.doors, deck[(int(v%perDeck)*k+i)%houseDoors])
	}
	shuffle(rng, c.doors)
	for _, door := range c.doors {
		right := h.rule[door]
		c.right = append(c.right, right)
		c.listed = append(c.listed, h.list(rng, right, m))
	}
	return c
}

// list returns the right lever and m-1 others of the house, shuffled.
func (h house) list(rng *rand.Rand, right string, m int) []string {
	others := slices.DeleteFunc(slices.Clone(h.levers), func(l string) bool { return l == right })
	listed := append(sample(rng, others, m-1), right)
	shuffle(rng, listed)
	return listed
}

// stream is the n-th random stream of one kind that belongs to a house.
func stream(seed, kind, n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, kind<<56|n))
}

// sample draws n of words without replacement, in random order.
func sample(rng *rand.Rand, words []string, n int) []string {
	drawn := slices.Clone(words)
	shuffle(rng, drawn)
	return drawn[:n]
}

func shuffle(rng *rand.Rand, words []string) {
	rng.Shuffle(len(words), func(i, j int) { words[i], words[j] = words[j], words[i] })
}
