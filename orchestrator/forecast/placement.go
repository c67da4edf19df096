package forecast

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
)

// A GPU is one GPU that the run uses, and what it holds there.
type GPU struct {
	Name    string `json:"name"`             // its index, or its UUID
	Memory  int64  `json:"memory_bytes"`     // 0: unknown
	Servers int    `json:"server_processes"` // or parts of them
	Trainer bool   `json:"trainer"`
	Server  int64  `json:"server_bytes"` // while the server is awake
	// Needed is the memory of the busier of the two phases: sampling and training.
	Needed int64 `json:"needed_bytes"`
}

// Holds says what the GPU holds, for example "server and trainer".
func (g GPU) Holds() string {
	switch {
	case g.Servers > 0 && g.Trainer:
		return "server and trainer"
	case g.Trainer:
		return "trainer"
	}
	return "server"
}

// visible is the variable that chooses a process's GPUs.
const visible = "CUDA_VISIBLE_DEVICES"

// chosen returns the GPUs that an environment chooses, nil: none are named.
func chosen(env []string) []string {
	for _, entry := range slices.Backward(env) {
		if name, value, set := strings.Cut(entry, "="); set && name == visible {
			return strings.Split(value, ",")
		}
	}
	return nil
}

// trainerGPUs returns the GPUs of the trainer: what trainer.device and trainer.env
// name, else the first ones. named says that the configuration names them.
func trainerGPUs(c config.Trainer) (gpus []string, named bool) {
	all := chosen(c.Env)
	named = all != nil
	at := func(i int) string {
		if i < len(all) {
			return strings.TrimSpace(all[i])
		}
		return strconv.Itoa(i)
	}
	if _, index, found := strings.Cut(c.Device, ":"); found {
		if i, err := strconv.Atoi(index); err == nil {
			return []string{at(i)}, true
		}
	}
	for i := range max(1, c.GPUs) {
		gpus = append(gpus, at(i))
	}
	return gpus, named
}

// serverGPUs returns the GPUs of each replica that empo2 starts. Without devices all see
// the same GPUs, and each takes the first one.
func serverGPUs(c config.Sampler, replicas int) (gpus [][]string, named bool) {
	devices := c.Devices()
	env := c.Env()
	for i := range replicas {
		switch all := chosen(env); {
		case i < len(devices):
			gpus = append(gpus, strings.Split(devices[i], ","))
		case all != nil:
			gpus = append(gpus, all[:1])
		default:
			gpus = append(gpus, []string{"0"})
		}
	}
	return gpus, len(devices) > 0 || chosen(env) != nil
}

// place distributes server and trainer over the GPUs.
func (f *Forecast) place(c config.Config, m inspect.Machine) {
	byName := map[string]*GPU{}
	at := func(name string) *GPU {
		if byName[name] == nil {
			byName[name] = &GPU{Name: name, Memory: memoryOf(name, m)}
		}
		return byName[name]
	}
	trainerNamed, serverNamed := true, true
	if f.Server.OnGPU && f.Server.Processes > 0 {
		replicas := c.Sampler.Replicas()
		each := f.Server.Total() / int64(replicas)
		var all [][]string
		all, serverNamed = serverGPUs(c.Sampler, replicas)
		for _, gpus := range all {
			for _, name := range gpus {
				g := at(name)
				g.Servers += f.Server.Processes / replicas
				if f.Server.EachGPU {
					g.Server += each
				} else {
					g.Server += each / int64(len(gpus))
				}
			}
		}
	}
	if f.Device == "gpu" && f.Trainer.Total() > 0 {
		var gpus []string
		gpus, trainerNamed = trainerGPUs(c.Trainer)
		for _, name := range gpus {
			at(name).Trainer = true
		}
	}
	for _, g := range byName {
		f.GPUs = append(f.GPUs, f.needed(*g))
	}
	slices.SortFunc(f.GPUs, func(a, b GPU) int {
		i, _ := strconv.Atoi(a.Name) // a UUID is last
		j, _ := strconv.Atoi(b.Name)
		return cmp.Or(cmp.Compare(i, j), cmp.Compare(a.Name, b.Name))
	})
	for _, g := range f.GPUs {
		f.NeededGPU = max(f.NeededGPU, g.Needed)
	}
	f.placed = f.oneGPU || trainerNamed && serverNamed
}

// needed fills in what the GPU needs. While the trainer works, a server that sleeps
// needs nothing.
func (f *Forecast) needed(g GPU) GPU {
	g.Needed = g.Server
	if g.Trainer {
		awake := g.Server
		if f.Server.Sleeps {
			awake = 0
		}
		g.Needed = max(g.Server+f.Trainer.resident(), awake+f.Trainer.Total())
	}
	return g
}

// memoryOf returns the memory of a GPU of the machine. One that is not known by an index
// is like the first one. It is 0 if the machine has none of the index.
func memoryOf(name string, m inspect.Machine) int64 {
	i, err := strconv.Atoi(name)
	switch {
	case len(m.GPUs) == 0:
		return 0
	case err != nil:
		return m.GPUs[0].Memory
	case i < 0 || i >= len(m.GPUs):
		return 0
	}
	return m.GPUs[i].Memory
}

// missingGPU is a problem if a GPU is named that the machine does not have.
func (f Forecast) missingGPU() (Problem, bool) {
	for _, g := range f.GPUs {
		if i, err := strconv.Atoi(g.Name); err == nil && f.gpuCount > 0 && i >= f.gpuCount {
			return Problem{Fatal: true,
				What: fmt.Sprintf("the %s is placed on GPU %d, and this machine has %d (from 0)", g.Holds(), i, f.gpuCount),
				Remedy: "name others with the key devices of the server's table, trainer.device, or " + visible +
					" in trainer.env"}, true
		}
	}
	return Problem{}, false
}

// GPUCount returns how many GPUs, from 0 on, a configuration places something on: at
// least 1.
func GPUCount(c config.Config) int {
	all, _ := serverGPUs(c.Sampler, c.Sampler.Replicas())
	var trainer []string
	if c.Trainer.Device != "cpu" && c.Trainer.URL == "" {
		trainer, _ = trainerGPUs(c.Trainer)
	}
	count := 1
	for _, name := range slices.Concat(append(all, trainer)...) {
		if i, err := strconv.Atoi(name); err == nil {
			count = max(count, i+1)
		}
	}
	return count
}
