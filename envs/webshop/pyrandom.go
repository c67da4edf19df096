package webshop

import "math"

const (
	twisterN = 624
	twisterM = 397
)

// pyRandom draws the same numbers as Python's random.Random: the Mersenne Twister MT19937
// with CPython's floats, indices, samples and permutations. It is not safe for concurrent
// use.
type pyRandom struct {
	state [twisterN]uint32
	next  int
}

// newPyRandom is random.seed(seed).
func newPyRandom(seed uint64) *pyRandom {
	r := new(pyRandom)
	key := []uint32{uint32(seed)}
	if seed>>32 != 0 {
		key = append(key, uint32(seed>>32))
	}
	r.seedArray(key)
	return r
}

// seedArray is init_by_array of Matsumoto and Nishimura's mt19937ar.
func (r *pyRandom) seedArray(key []uint32) {
	s := &r.state
	s[0] = 19650218
	for i := uint32(1); i < twisterN; i++ {
		s[i] = 1812433253*(s[i-1]^s[i-1]>>30) + i
	}
	i, j := uint32(1), 0
	advance := func() {
		if i++; i >= twisterN {
			s[0], i = s[twisterN-1], 1
		}
	}
	for range max(twisterN, len(key)) {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1664525) + key[j] + uint32(j)
		advance()
		if j++; j >= len(key) {
			j = 0
		}
	}
	for range twisterN - 1 {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1566083941) - i
		advance()
	}
	s[0] = 1 << 31
	r.next = twisterN
}

func (r *pyRandom) uint32() uint32 {
	if r.next == twisterN {
		r.twist()
	}
	y := r.state[r.next]
	r.next++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

func (r *pyRandom) twist() {
	s := &r.state
	for k := range s {
		y := s[k]&(1<<31) | s[(k+1)%twisterN]&(1<<31-1)
		s[k] = s[(k+twisterM)%twisterN] ^ y>>1 ^ (y&1)*0x9908b0df
	}
	r.next = 0
}

// float64 is random.random(), in [0, 1).
func (r *pyRandom) float64() float64 {
	a, b := r.uint32()>>5, r.uint32()>>6
	return (float64(a)*(1<<26) + float64(b)) / (1 << 53)
}

// uniform is random.uniform(a, b). Like in CPython, the product is rounded before the
// sum. The conversion prevents a fused multiply-add.
func (r *pyRandom) uniform(a, b float64) float64 {
	return a + float64((b-a)*r.float64())
}

// below is random._randbelow(n), 0 < n < 2^32.
func (r *pyRandom) below(n int) int {
	bits := 0
	for v := n; v > 0; v >>= 1 {
		bits++
	}
	for {
		if v := int(r.uint32() >> (32 - bits)); v < n {
			return v
		}
	}
}

// shuffle is random.shuffle of n elements.
func (r *pyRandom) shuffle(n int, swap func(i, j int)) {
	for i := n - 1; i > 0; i-- {
		swap(i, r.below(i+1))
	}
}

// sample is random.sample(range(n), k), 0 <= k <= n.
func (r *pyRandom) sample(n, k int) []int {
	picked := make([]int, k)
	setSize := 21
	if k > 5 {
		setSize += int(math.Pow(4, math.Ceil(math.Log(float64(3*k))/math.Log(4))))
	}
	if n <= setSize {
		pool := make([]int, n)
		for i := range pool {
			pool[i] = i
		}
		for i := range picked {
			j := r.below(n - i)
			picked[i] = pool[j]
			pool[j] = pool[n-i-1]
		}
		return picked
	}
	seen := make(map[int]bool, k)
	for i := range picked {
		j := r.below(n)
		for seen[j] {
			j = r.below(n)
		}
		seen[j] = true
		picked[i] = j
	}
	return picked
}
