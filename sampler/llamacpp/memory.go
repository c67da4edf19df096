package llamacpp

// Shape is what the memory of a process depends on, apart from its [Config].
type Shape struct {
	// CacheValues is how many numbers the cache of keys and values holds for one
	// token, Heads how many attention heads a layer has.
	CacheValues, Heads, Vocabulary int64
}

// Memory is an estimate for one process, in bytes. The weights are not part of
// it: they are mapped from the file, which all processes share.
type Memory struct {
	Cache   int64 // keys and values of all slots; it is allocated at the start
	Program int64 // the program and its buffers
}

// The cache has float32 with exact log-probs and else float16. The other sizes
// are those of llama-server: tokens that it computes at a time, and the resident
// memory of the program itself.
const (
	physicalBatch = 512
	programBytes  = 100e6
)

// EstimateMemory predicts the memory of one process with a configuration whose
// context and slots are set.
func EstimateMemory(cfg Config, s Shape) Memory {
	size := int64(2)
	scores := int64(0)
	if cfg.ExactLogprobs {
		size = 4
		scores = 4 * physicalBatch * s.Heads * int64(cfg.ContextPerSlot) // without flash attention
	}
	return Memory{
		Cache:   size * s.CacheValues * int64(cfg.Slots) * int64(cfg.ContextPerSlot),
		Program: programBytes + 4*physicalBatch*s.Vocabulary + scores,
	}
}

// ProcessesPerSwap is how many processes run while a version replaces another:
// those of the base model, the old version and the new one.
const ProcessesPerSwap = 3

// MemoryInUse returns the resident memory of all processes in bytes. Pages that
// several processes map count once. It is 0 where the system does not tell.
func (b *Backend) MemoryInUse() int64 {
	b.mu.Lock()
	versions := map[*version]bool{}
	if b.base != nil {
		versions[b.base] = true
	}
	for _, v := range b.versions {
		versions[v] = true
	}
	b.mu.Unlock()
	total := int64(0)
	for v := range versions {
		v.mu.Lock()
		for _, r := range v.replicas {
			if r.now != nil {
				total += r.now.memory()
			}
		}
		v.mu.Unlock()
	}
	return total
}
