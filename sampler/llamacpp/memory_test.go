package llamacpp

import (
	"testing"

	"github.com/empo2/empo2/sampler"
)

// SmolLM2-135M with 16 slots of 8,192 tokens in float32 took 6 GB.
func TestEstimateMemory(t *testing.T) {
	smol := Shape{CacheValues: 2 * 30 * 3 * 64, Heads: 9, Vocabulary: 49152}
	m := EstimateMemory(Config{Slots: 16, ContextPerSlot: 8192, ExactLogprobs: true}, smol)
	if m.Cache != 16*8192*11520*4 || m.Program != 100e6+4*512*49152+4*512*9*8192 {
		t.Errorf("%+v", m)
	}
	if half := EstimateMemory(Config{Slots: 16, ContextPerSlot: 8192}, smol); half.Cache != m.Cache/2 {
		t.Errorf("%+v", half)
	}
}

func TestMemoryOfAllProcesses(t *testing.T) {
	f := newFakes()
	b, err := f.open(t, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.MemoryInUse(); got != 1000 {
		t.Errorf("%d bytes for the base model", got)
	}
	if _, err := b.Publish(t.Context(), sampler.Adapter{}); err != nil {
		t.Fatal(err)
	}
	if got := b.MemoryInUse(); got != 1000 {
		t.Errorf("%d bytes after the base model was published", got)
	}
}
