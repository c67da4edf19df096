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
	// A hash of its rule puts each house into one of four classes: 0 and 1 are
	// for pre-training the base policy, 2 is for checking the pre-training, and
	// 3 is for reinforcement learning. So the classes never share a house.
	houseClasses = 4
	gateClass    = 2
	rlClass      = 3
)

// The independent random streams of a house.
const (
	houseStream uint64 = iota + 1
	deckStream
	listStream
	lessonStream // of a seed of lessons, not of a house
)

// A house has eight doors, twelve levers and a hidden rule.
type house struct {
	seed   uint64
	doors  []string
	levers []string
	rule   map[string]string // door → lever, drawn with replacement
}

// newHouse draws houses from the stream of a seed and returns the first one in
// the class for reinforcement learning.
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

// canonical is a rule as text: its door=lever pairs sorted by door and joined by
// semicolons.
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

// A corridor is one variation of a house: its doors in order, the levers listed
// at each door, and the right lever of each door.
type corridor struct {
	doors  []string
	listed [][]string
	right  []string
}

// corridor draws variation v: k doors with m levers each. The doors come from a
// shuffled deck of all eight doors that lasts for ⌈8/k⌉ variations, so these show
// every door. If the deck is too short for the last of them, that variation also
// takes doors from the top of the same deck.
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

// stream is the n-th random stream of one kind in a house.
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
