package forecast

import (
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/inspect"
)

// vllmOn is a server of vLLM with a share of each GPU that it uses.
func vllmOn(replicas int, memory int64, share float64) Server {
	return Server{Name: "vLLM", OnGPU: true, EachGPU: true, Processes: replicas, Shared: 2 * qwen.Parameters,
		Cache: int64(share*float64(memory)) - 2*qwen.Parameters, Remedy: "raise the utilization"}
}

// Each GPU is compared with what it holds by the configuration.
func TestWhatEachGPUHolds(t *testing.T) {
	const memory = 85e9
	f := func(gpus int, server Server, want []GPU, says string, sets ...string) {
		t.Helper()
		c := load(t, "gpu-80gb", true, append(sets, "sampler.vllm.sleep=false")...)
		got := Of(Input{Config: c, Model: qwen, Server: server, Machine: inspect.Machine{Memory: 500e9,
			GPUs: slices.Repeat([]inspect.GPU{{Name: "GPU", Memory: memory}}, gpus)}})
		if len(got.GPUs) != len(want) {
			t.Fatalf("%v: %+v", sets, got.GPUs)
		}
		largest := int64(0)
		for i, g := range got.GPUs {
			w := want[i]
			needed := w.Server
			if w.Trainer {
				needed += got.Trainer.Total()
			}
			largest = max(largest, needed)
			if g.Name != w.Name || g.Servers != w.Servers || g.Trainer != w.Trainer || g.Server != w.Server ||
				g.Needed != needed || g.Memory != w.Memory {
				t.Errorf("%v: %+v, want %+v and %d", sets, g, w, needed)
			}
		}
		if got.NeededGPU != largest {
			t.Errorf("%v: %d needed, want %d", sets, got.NeededGPU, largest)
		}
		if says == "" && len(got.Problems) > 0 || says != "" &&
			(len(got.Problems) == 0 || !strings.Contains(got.Problems[0].What, says) || !got.Problems[0].Fatal) {
			t.Errorf("%v: %+v, want %q", sets, got.Problems, says)
		}
	}
	on := func(name string, servers int, share float64, trainer bool) GPU {
		return GPU{Name: name, Memory: memory, Servers: servers, Trainer: trainer,
			Server: int64(servers) * int64(share*memory)}
	}
	f(1, vllmOn(1, memory, 0.5), []GPU{on("0", 1, 0.5, true)}, "")
	f(1, vllmOn(1, memory, 0.9), []GPU{on("0", 1, 0.9, true)},
		"while the server samples it needs 76.5 GB and the trainer")
	f(2, vllmOn(1, memory, 0.9), []GPU{on("0", 1, 0.9, false), on("1", 0, 0, true)}, "",
		`sampler.vllm.devices=["0"]`, `trainer.device=cuda:1`)
	f(2, vllmOn(1, memory, 0.9), []GPU{on("0", 0, 0, true), on("1", 1, 0.9, false)}, "",
		`sampler.vllm.devices=["1"]`, `trainer.env=["CUDA_VISIBLE_DEVICES=0"]`)
	f(4, vllmOn(2, memory, 0.9), []GPU{on("0", 1, 0.9, false), on("1", 1, 0.9, false), on("3", 0, 0, true)}, "",
		"sampler.vllm.replicas=2", `sampler.vllm.devices=["0", "1"]`, `trainer.env=["CUDA_VISIBLE_DEVICES=2,3"]`,
		"trainer.device=cuda:1")
	f(2, vllmOn(2, memory, 0.4), []GPU{on("0", 2, 0.4, false), on("1", 0, 0, true)}, "",
		"sampler.vllm.replicas=2", `sampler.vllm.env=["CUDA_VISIBLE_DEVICES=0"]`, "trainer.device=cuda:1")
	f(2, vllmOn(2, memory, 0.6), []GPU{on("0", 2, 0.6, false), on("1", 0, 0, true)},
		"the server needs 102.0 GB; GPU 0 has",
		"sampler.vllm.replicas=2", `sampler.vllm.devices=["0", "0"]`, "trainer.device=cuda:1")
	f(8, vllmOn(4, memory, 0.9), []GPU{on("0", 1, 0.9, false), on("1", 1, 0.9, false), on("2", 1, 0.9, false),
		on("3", 1, 0.9, false), on("4", 0, 0, true), on("5", 0, 0, true), on("6", 0, 0, true), on("7", 0, 0, true)}, "",
		"sampler.vllm.replicas=4", `sampler.vllm.devices=["0", "1", "2", "3"]`, "trainer.gpus=4",
		`trainer.env=["CUDA_VISIBLE_DEVICES=4,5,6,7"]`)
	missing := on("2", 1, 0.9, false)
	missing.Memory = 0
	f(2, vllmOn(1, memory, 0.9), []GPU{on("1", 0, 0, true), missing}, "placed on GPU 2, and this machine has 2",
		`sampler.vllm.devices=["2"]`, "trainer.device=cuda:1")
}

// On a GPU each process of llama-server has its own weights, and one on two GPUs has a
// half on each.
func TestLlamaServersOnGPUs(t *testing.T) {
	c := load(t, "cpu", true, "sampler.backend=llamacpp", "sampler.llamacpp.binary=llama-server",
		"sampler.llamacpp.replicas=2", `sampler.llamacpp.devices=["0", "1,2"]`)
	machine := inspect.Machine{Memory: 500e9, GPUs: slices.Repeat([]inspect.GPU{{Memory: 24e9}}, 3)}
	c.Trainer.Device = "cpu"
	got := Of(Input{Config: c, Model: smol, Machine: machine,
		Server: Server{Name: "llama-server", OnGPU: true, Processes: 6, Shared: 5e8, Program: 1e8, Cache: 4e8}})
	want := []int64{3e9, 15e8, 15e8}
	for i, g := range got.GPUs {
		if g.Needed != want[i] || g.Servers != 3 || g.Trainer {
			t.Errorf("%+v, want %d", g, want[i])
		}
	}
	if len(got.GPUs) != 3 || got.NeededGPU != 3e9 || len(got.Problems) > 0 {
		t.Errorf("%+v, %+v", got.GPUs, got.Problems)
	}
}

func TestGPUCount(t *testing.T) {
	for want, sets := range map[int][]string{
		1: nil, 2: {"trainer.device=cuda:1"}, 4: {"sampler.vllm.replicas=2", `sampler.vllm.devices=["0,1", "2,3"]`},
		3: {"trainer.gpus=3"}, 8: {`trainer.env=["CUDA_VISIBLE_DEVICES=7"]`},
	} {
		if got := GPUCount(load(t, "gpu-80gb", true, sets...)); got != want {
			t.Errorf("%v: %d GPUs, want %d", sets, got, want)
		}
	}
}
