package orchestrator

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
)

// newPlan draws the plan of a step, its prompt excepted.
func newPlan(c config.Config, tasks []envs.Task, step int64, version int) Plan {
	rng := rand.New(rand.NewPCG(c.Run.Seed, childSeed(c.Run.Seed, "plan", uint64(step))))
	draw := newModeDraw(c.Algorithm, rng)
	if draw.control = c.Memory.Control; !c.HasMemory() {
		draw.control = 1
	}
	p := Plan{Step: step, Version: version}
	first := uint64(step-1) * uint64(c.Algorithm.Groups) // groups of earlier steps
	for g := range c.Algorithm.Groups {
		group := GroupPlan{Task: taskAt(tasks, c.Run.Seed, first+uint64(g))}
		for e, mode := range draw.group(c.Algorithm.GroupSize) {
			seed := childSeed(c.Run.Seed, "episode", uint64(step), uint64(g), uint64(e))
			group.Episodes = append(group.Episodes, EpisodePlan{Mode: mode, Seed: seed})
		}
		p.Groups = append(p.Groups, group)
	}
	return p
}

// furtherGroups returns the plan with n more groups, whose draws depend on (seed, step,
// batch).
func furtherGroups(c config.Config, tasks []envs.Task, p Plan, n int) Plan {
	p.Further++
	if p.MemoryProbability > 0 {
		c.Algorithm.MemoryProbability = p.MemoryProbability
	}
	step, seed := uint64(p.Step), c.Run.Seed
	draw := newModeDraw(c.Algorithm, rand.New(rand.NewPCG(seed, childSeed(seed, "plan", step)))) // the step's mode
	draw.rng = rand.New(rand.NewPCG(seed, childSeed(seed, "further groups", step, uint64(p.Further))))
	first := len(p.Groups)
	p.Groups = slices.Clone(p.Groups)
	for g := first; g < first+n; g++ {
		group := GroupPlan{Task: taskAt(tasks, childSeed(seed, "further tasks", step), uint64(g-c.Algorithm.Groups))}
		for e, mode := range draw.group(c.Algorithm.GroupSize) {
			group.Episodes = append(group.Episodes, EpisodePlan{Mode: mode,
				Seed: childSeed(seed, "episode", step, uint64(g), uint64(e))})
		}
		p.Groups = append(p.Groups, group)
	}
	return p
}

// taskAt returns the i-th task: all tasks in a random order, then all again in
// another one.
func taskAt(tasks []envs.Task, seed, i uint64) envs.Task {
	n := uint64(len(tasks))
	order := rand.New(rand.NewPCG(seed, childSeed(seed, "tasks", i/n))).Perm(len(tasks))
	return tasks[order[i%n]]
}

// modeDraw draws learning modes per step, per group or per episode.
type modeDraw struct {
	a   config.Algorithm
	rng *rand.Rand
	// control is the share of an adaptation group without memory.
	control float64
	// step is the mode of the whole step. It applies if modes are drawn per step.
	step Mode
}

func newModeDraw(a config.Algorithm, rng *rand.Rand) *modeDraw {
	d := &modeDraw{a: a, rng: rng}
	d.step = d.one()
	return d
}

// one draws p_mem first, then p_off (EMPO², section 4.2).
func (d *modeDraw) one() Mode {
	if d.rng.Float64() >= d.a.MemoryProbability {
		return OnPolicy
	}
	return d.withTips()
}

func (d *modeDraw) withTips() Mode {
	if d.rng.Float64() < d.a.OffPolicyProbability {
		return OffPolicy
	}
	return OnPolicyTips
}

// group returns the modes of a group of n episodes.
func (d *modeDraw) group(n int) []Mode {
	modes := make([]Mode, n)
	group := d.step
	if d.a.ModeDraw == "group" {
		group = d.one()
	}
	tips := int(math.Round(d.a.MemoryProbability * float64(n)))
	if d.a.MemoryAnneal { // without an episode with tips there is nothing to measure
		tips = max(tips, 1)
	}
	for i := range modes {
		switch {
		case d.a.Name == "grpo":
			modes[i] = OnPolicy
		case d.a.Name == "adapt" && i < n-int(math.Round(d.control*float64(n))):
			modes[i] = OnPolicyTips
		case d.a.Name == "adapt": // measures what the memory is worth
			modes[i] = OnPolicy
		case d.a.ModeDraw != "episode":
			modes[i] = group
		case i < tips:
			modes[i] = d.withTips()
		default:
			modes[i] = OnPolicy
		}
	}
	return modes
}

// childSeed derives an independent seed from a seed, a name and indices.
func childSeed(seed uint64, name string, indices ...uint64) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name)) // never fails
	return sampler.Seed(sampler.Seed(seed, h.Sum64()), indices...)
}
