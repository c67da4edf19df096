package llamacpp

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// BenchmarkSwaps swaps the policy of real llama-servers 200 times, each time with a
// new process, while 64 requests are in flight. One operation is the whole sequence.
func BenchmarkSwaps(b *testing.B) {
	r := newReal(b)
	r.startOracle(b)
	var made []sampler.Adapter
	for content := range 4 {
		made = append(made, r.adapter(b, content+1))
	}
	cfg := r.config()
	cfg.Slots = 16
	before := children(b)
	backend := r.open(b, cfg)
	swaps := samplertest.SwapConfig{
		Swaps: 200, InFlight: 64, MaxTokens: 4, Tolerance: 1e-3,
		Adapter:  func(version int) (sampler.Adapter, int) { return made[version%len(made)], version % len(made) },
		Resident: func() int { return children(b) - before - 1 }, // without the base model
	}
	for i := range 8 {
		swaps.Prompts = append(swaps.Prompts,
			tokens(b, backend, "You are in room "+strconv.Itoa(i)+". There is a lever, a door and a sign."))
	}
	samplertest.BenchmarkSwaps(b, backend, swaps)
}

// children counts the children of this process, 0 without /proc.
func children(b *testing.B) (n int) {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		b.Fatal(err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		n += len(strings.Fields(string(text))) / 2 // each child has a guard
	}
	return n
}
