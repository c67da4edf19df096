package orchestrator

import (
	"math"

	"github.com/empo2/empo2/orchestrator/config"
)

// annealSteps are the committed steps over which the gap is measured.
const annealSteps = 10

// memoryProbability is p_mem of the next step. With algorithm.memory_anneal it follows the
// measured gap between the mean returns with and without tips, as a share of the larger
// one: memory_probability while only episodes with tips succeed, and
// memory_probability_min once the policy does as well without. Without a measurement, or
// if both returns are 0, it is memory_probability. (Our extension.)
func memoryProbability(a config.Algorithm, recent []StepMetrics) float64 {
	if !a.MemoryAnneal {
		return a.MemoryProbability
	}
	var free, tips, nFree, nTips float64
	for _, m := range recent[max(0, len(recent)-annealSteps):] {
		free, nFree = free+m.Free.Return*float64(m.Free.N), nFree+float64(m.Free.N)
		tips, nTips = tips+m.Tips.Return*float64(m.Tips.N), nTips+float64(m.Tips.N)
	}
	if nFree == 0 || nTips == 0 {
		return a.MemoryProbability
	}
	free, tips = free/nFree, tips/nTips
	larger := math.Max(math.Abs(free), math.Abs(tips))
	if larger == 0 {
		return a.MemoryProbability
	}
	share := math.Min(math.Max((tips-free)/larger, 0), 1)
	return a.MemoryProbabilityMin + (a.MemoryProbability-a.MemoryProbabilityMin)*share
}
