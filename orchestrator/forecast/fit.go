package forecast

import "fmt"

// GB formats a size.
func GB(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) }

// problems compares what so many runs at the same time need with what the machine
// has. Unknown sizes are no problem.
func (f Forecast) problems(runs int) []Problem {
	out := []Problem{}
	room, word := f.Memory, ""
	if f.FreeMemory > 0 {
		room, word = f.FreeMemory, " free"
	}
	who := "trainer and server"
	if runs > 1 {
		who = fmt.Sprintf("%d runs at the same time", runs)
	}
	if least := int64(runs) * f.least(); room > 0 && least > room {
		out = append(out, Problem{
			What:   fmt.Sprintf("%s need at least %s of memory, this machine has %s%s", who, GB(least), GB(room), word),
			Remedy: f.memoryRemedy(room), Fatal: true,
		})
	}
	if f.Trainer.Ranks > 1 && !f.ranksOnCPU && f.Trainer.Ranks > f.gpus {
		out = append(out, Problem{
			What: fmt.Sprintf("trainer.gpus is %d, this machine has %d", f.Trainer.Ranks, f.gpus),
			Remedy: fmt.Sprintf("set trainer.gpus = %d; with trainer.device = \"cpu\" they are processes on the CPU",
				max(1, f.gpus)), Fatal: true,
		})
	}
	if p, ok := f.gpuProblem(); ok {
		out = append(out, p)
	}
	if f.FreeDisk > 0 && f.Disk.Total > f.FreeDisk {
		out = append(out, Problem{
			What:   fmt.Sprintf("the run's folder grows to %s, the disk has %s", GB(f.Disk.Total), GB(f.FreeDisk)),
			Remedy: "lower run.steps or run.keep_checkpoints, or set run.dir to another disk",
		})
	}
	return out
}

// least is the main memory that is needed even if the trainer takes only what its
// longest row needs.
func (f Forecast) least() int64 {
	if f.Device == "gpu" {
		return f.Needed
	}
	return f.Needed - int64(max(1, f.Trainer.Ranks))*max(0, f.Trainer.Activations-f.Trainer.LongestRow)
}

// memoryRemedy names what makes the largest part smaller: the weights, the server
// or the trainer.
func (f Forecast) memoryRemedy(room int64) string {
	server, weights := f.Server.Total(), f.Server.Shared
	if f.Server.OnGPU {
		server, weights = 0, 0
	}
	if f.Device == "cpu" {
		weights += f.Trainer.Weights
	}
	switch {
	case weights > room:
		return fmt.Sprintf("choose a smaller model (the weights alone take %s), or a machine with more memory", GB(weights))
	case server > f.Trainer.Total() && f.Server.Remedy != "":
		return f.Server.Remedy
	}
	return "choose a smaller model, a shorter context (rollout.max_turns, rollout.max_tokens, " +
		"sampler.max_model_len) or a lower trainer.rank"
}

// gpuProblem returns the first problem of a GPU.
func (f Forecast) gpuProblem() (Problem, bool) {
	if p, missing := f.missingGPU(); missing {
		return p, true
	}
	for _, g := range f.GPUs {
		if p, ok := f.problemOf(g); ok {
			return p, true
		}
	}
	return Problem{}, false
}

// problemOf checks both phases on a GPU: while the server samples the trainer keeps its
// weights, and while the trainer works the server sleeps, if it can.
func (f Forecast) problemOf(g GPU) (Problem, bool) {
	if g.Memory == 0 {
		return Problem{}, false
	}
	p := Problem{Fatal: f.placed, Remedy: "choose a smaller model, trainer.quantize = \"nf4\", or a shorter context " +
		"(rollout.max_turns, rollout.max_tokens, sampler.max_model_len)"}
	the := "the GPU"
	if len(f.GPUs) > 1 {
		the = "GPU " + g.Name
	}
	if g.Servers > 0 && f.Server.Cache < 0 { // the weights leave no room for it
		p.What = fmt.Sprintf("the weights take %s of the %s that the server may use", GB(f.Server.Shared), GB(g.Server))
		p.Remedy = f.Server.Remedy
		return p, true
	}
	server, trainer := g.Server, int64(0)
	if g.Trainer {
		trainer = f.Trainer.resident() + f.Trainer.LongestRow
		if resident := f.Trainer.resident(); server > 0 && server+resident > g.Memory {
			p.What = fmt.Sprintf("while the server samples it needs %s and the trainer %s; %s has %s",
				GB(server), GB(resident), the, GB(g.Memory))
			p.Remedy = "give the server less of the GPU, or " + p.Remedy
			return p, true
		}
		if f.Server.Sleeps {
			server = 0
		}
	}
	if trainer+server <= g.Memory {
		return p, false
	}
	switch {
	case !g.Trainer:
		p.What = fmt.Sprintf("the server needs %s; %s has %s", GB(server), the, GB(g.Memory))
		p.Remedy = f.Server.Remedy
	case g.Servers == 0:
		p.What = fmt.Sprintf("the trainer needs at least %s; %s has %s", GB(trainer), the, GB(g.Memory))
	default:
		p.What = fmt.Sprintf("the trainer needs at least %s and the server %s; %s has %s",
			GB(trainer), GB(server), the, GB(g.Memory))
	}
	if server > 0 && g.Trainer && f.Server.SleepRemedy != "" {
		p.Remedy = f.Server.SleepRemedy + ", or " + p.Remedy
	}
	return p, true
}
