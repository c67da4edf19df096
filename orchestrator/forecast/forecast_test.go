package forecast

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
)

// smol is SmolLM2-135M, qwen has the shape of Qwen2.5-7B.
var (
	smol = inspect.Model{Parameters: 134_515_008, Context: 8192, CacheValues: 2 * 30 * 3 * 64, Shape: inspect.Shape{
		Layers: 30, Hidden: 576, Intermediate: 1536, Heads: 9, KVHeads: 3, HeadDim: 64, Vocabulary: 49152, Tied: true}}
	qwen = inspect.Model{Parameters: 7_615_616_512, Context: 32768, CacheValues: 2 * 28 * 4 * 128, Shape: inspect.Shape{
		Layers: 28, Hidden: 3584, Intermediate: 18944, Heads: 28, KVHeads: 4, HeadDim: 128, Vocabulary: 152064}}
)

func load(t *testing.T, profile string, gpu bool, sets ...string) config.Config {
	t.Helper()
	sets = append(sets, `model.path="m"`)
	c, err := config.Source{Profile: profile, Sets: sets, Machine: config.Machine{GPU: gpu}}.Load()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func near(t *testing.T, what string, got int64, want, share float64) {
	t.Helper()
	if math.Abs(float64(got)-want) > share*want {
		t.Errorf("%s: %.3g, want %.3g within %.0f %%", what, float64(got), want, 100*share)
	}
}

func TestTheTrainersMemoryOnACPU(t *testing.T) {
	c := load(t, "cpu", false)
	f := Of(Input{Config: c, Model: smol, Machine: inspect.Machine{Memory: 24e9, Free: 20e9}})
	// rank 16 · 30 layers · (4·576 + 2·576·2 + 2·(576+192) … + 3·(576+1536))
	if got, want := f.Trainer.AdapterN, int64(16*30*(2*(576+576)+2*(576+192)+3*(576+1536))); got != want {
		t.Errorf("%d values in the adapter, want %d", got, want)
	}
	if f.Trainer.Weights != 4*134_515_008 || f.Trainer.Adapter != 16*f.Trainer.AdapterN {
		t.Errorf("%+v", f.Trainer)
	}
	// The longest row needs more with checkpointed layers than the allowance of a CPU.
	per := 4 * (30*576 + 2*(2*1536+2*192+7*16+6*576) + 4*576)
	want := float64(f.LongestRow*per + 24*(6<<20))
	near(t, "activations", f.Trainer.Activations, want, 1e-9)
	short := Of(Input{Config: load(t, "cpu", false, "sampler.max_model_len=1024"), Model: smol,
		Machine: inspect.Machine{Memory: 24e9}})
	near(t, "short rows", short.Trainer.Activations, 1.15*(600<<20)+24*(6<<20), 1e-8)
	if f.Device != "cpu" || f.NeededGPU != 0 || len(f.Problems) != 0 || f.Time.Step != 0 {
		t.Errorf("%+v", f)
	}
}

// A step that is sampled ahead takes as long as the slower side.
func TestTheTimeOfOverlappedSteps(t *testing.T) {
	f := func(staleness string, gradient, want, predicted float64) {
		t.Helper()
		c := load(t, "cpu", false, "algorithm.groups=1", "algorithm.group_size=4", "rollout.max_staleness="+staleness)
		got := times(c, Calibration{Turns: 10, TurnsPerSec: 4, EpisodeTokens: 100, TrainTokensPerSec: 20, PublishSeconds: 2})
		if got.Sample != 10 || got.Train != 20 || got.Step != want {
			t.Errorf("staleness %s: %+v, want a step of %g s", staleness, got, want)
		}
		check := Forecast{Time: got}.Check(Outcome{Step: 1, Gradient: gradient})
		if check[0].What != "step" || check[0].Predicted != predicted {
			t.Errorf("staleness %s: %+v, want %g s", staleness, check[0], predicted)
		}
	}
	f("0", 1, 32, 32)
	f("0", 0.25, 32, 17)
	f("1", 1, 22, 22)
	f("1", 0.25, 22, 10)
}

func TestAnAdaptationHasNoTrainer(t *testing.T) {
	c := load(t, "cpu", false, "algorithm.name=adapt")
	f := Of(Input{Config: c, Model: smol, Machine: inspect.Machine{Memory: 24e9},
		Server: Server{Processes: 1, Cache: 1e9}})
	if f.Trainer != (Trainer{}) || f.Disk.Adapter != 0 || f.Needed != 1e9 {
		t.Errorf("%+v", f)
	}
}

// The weights and the row of a 7 B model fit a GPU of 80 GB and not one of 24 GB.
func TestALargeModelOnGPUs(t *testing.T) {
	f := func(profile, says string, memory int64, sets ...string) {
		t.Helper()
		c := load(t, profile, true, sets...)
		utilization := c.Sampler.VLLM.GPUMemoryUtilization
		weights := 2 * qwen.Parameters
		server := Server{Name: "vLLM", OnGPU: true, Processes: 1, Shared: weights, Sleeps: c.Sampler.VLLM.Sleep,
			Cache: int64(utilization*float64(memory)) - weights, Remedy: "raise the utilization"}
		got := Of(Input{Config: c, Model: qwen, Server: server,
			Machine: inspect.Machine{Memory: 200e9, GPUs: []inspect.GPU{{Name: "GPU", Memory: memory}}}})
		if got.Trainer.Weights != weights || got.Device != "gpu" {
			t.Errorf("%+v", got.Trainer)
		}
		if says == "" {
			if len(got.Problems) > 0 || got.NeededGPU > memory {
				t.Errorf("%s on %s: %+v", profile, GB(memory), got.Problems)
			}
			return
		}
		if len(got.Problems) != 1 || !strings.Contains(got.Problems[0].What, says) || got.Problems[0].Remedy == "" {
			t.Errorf("%s on %s: %+v, want %q", profile, GB(memory), got.Problems, says)
		}
	}
	f("gpu-80gb", "", 85e9)
	f("gpu-24gb", "the weights take 15.2 GB of the 12.0 GB", 24e9)
	f("gpu-24gb", "while the server samples it needs 18.0 GB and the trainer", 24e9,
		"sampler.vllm.gpu_memory_utilization=0.75")
	f("gpu-80gb", "the trainer needs at least", 52e9, "sampler.vllm.sleep=false",
		"sampler.vllm.gpu_memory_utilization=0.6")
}

// Data parallel GPUs have all weights each; sharded ones a part of every layer, and the embeddings.
func TestTheTrainersMemoryOnSeveralGPUs(t *testing.T) {
	f := func(memory int64, gpus int, sharded bool, weights float64, says string, sets ...string) {
		t.Helper()
		c := load(t, "gpu-80gb", true, append(sets, "trainer.gpus=4")...)
		machine := inspect.Machine{Memory: 200e9,
			GPUs: slices.Repeat([]inspect.GPU{{Name: "GPU", Memory: memory}}, gpus)}
		got := Of(Input{Config: c, Model: qwen, Machine: machine})
		if got.Trainer.Ranks != 4 || got.Trainer.Sharded != sharded {
			t.Errorf("%+v", got.Trainer)
		}
		near(t, "weights", got.Trainer.Weights, weights, 1e-6)
		if says == "" && len(got.Problems) > 0 {
			t.Errorf("%+v", got.Problems)
		}
		if says != "" && (len(got.Problems) == 0 || !strings.Contains(got.Problems[0].What, says)) {
			t.Errorf("%+v, want %q", got.Problems, says)
		}
	}
	all, whole := 2*float64(qwen.Parameters), 2*2*152064*3584.0
	part := whole + (all-whole)/4 + 2*(all-whole)/28
	f(85e9, 4, false, all, "")
	f(24e9, 4, true, part, "")
	f(85e9, 4, true, part, "", "trainer.parallel=fsdp2")
	f(85e9, 2, false, all, "trainer.gpus is 4, this machine has 2")
	f(85e9, 0, false, all, "trainer.gpus is 4, this machine has 0")
}

func TestRanksOnACPUShareTheMemory(t *testing.T) {
	machine := inspect.Machine{Memory: 24e9}
	one := Of(Input{Config: load(t, "cpu", false), Model: smol, Machine: machine})
	two := Of(Input{Config: load(t, "cpu", false, "trainer.gpus=2", "trainer.device=cpu"), Model: smol, Machine: machine})
	if two.Trainer.Weights != one.Trainer.Weights || two.Needed != 2*two.Trainer.Total() || len(two.Problems) > 0 {
		t.Errorf("%+v, %+v", one, two)
	}
}

func TestWhatDoesNotFitAMachine(t *testing.T) {
	c := load(t, "cpu", false)
	f := func(memory, disk int64, server Server, what, remedy string) {
		t.Helper()
		got := Of(Input{Config: c, Model: smol, Machine: inspect.Machine{Memory: memory}, FreeDisk: disk, Server: server})
		if len(got.Problems) != 1 || !strings.Contains(got.Problems[0].What, what) ||
			!strings.Contains(got.Problems[0].Remedy, remedy) {
			t.Errorf("%+v, want %q, %q", got.Problems, what, remedy)
		}
	}
	f(1e9, 1e12, Server{}, "this machine has 1.0 GB", "choose a smaller model")
	f(8e9, 1e12, Server{Processes: 3, Cache: 3e9, Remedy: "lower rollout.concurrency"},
		"of memory, this machine has 8.0 GB", "lower rollout.concurrency")
	f(24e9, 1e8, Server{}, "the disk has 0.1 GB", "run.steps")
}

func TestTimeAndDiskFromACalibration(t *testing.T) {
	c := load(t, "cpu", false, "run.steps=10", "eval.every=5", "eval.episodes=8", "eval.final_episodes=16",
		"run.keep_checkpoints=2", "loss.minibatch=16")
	m := Calibration{
		Turns: 4, TurnsPerSec: 2, EpisodeTokens: 500, RowTokens: 400, LongestRow: 600, EpisodeBytes: 1000,
		TrainTokensPerSec: 250, ScoreTokensPerSec: 800, OptimSeconds: 0.5, ExportSeconds: 1, PublishSeconds: 3,
		AdapterBytes: 10e6, CheckpointBytes: 20e6,
	}
	f := Of(Input{Config: c, Model: smol, Machine: inspect.Machine{Memory: 24e9}, Measured: &m})
	// 32 episodes: 64 s of sampling; 16000 tokens at 250, 8 · 400 tokens scored at 800, two optimizer steps, an export.
	want := Time{Sample: 64, Train: 64 + 4 + 1 + 1, Publish: 3, Step: 137, Eval: (2*8 + 16) * 2, Total: 1370 + 64}
	if f.Time != want {
		t.Errorf("%+v, want %+v", f.Time, want)
	}
	if f.StepTokens != 16000 || f.Disk.Total != 2*30e6+(10*32+2*8+2*16)*1000 {
		t.Errorf("%v tokens, %+v", f.StepTokens, f.Disk)
	}
	c.Run.MaxSeconds = 300
	if got := Of(Input{Config: c, Model: smol, Measured: &m}).Time.Total; got != 300+137+64 {
		t.Errorf("%v seconds with a limit of 300", got)
	}
}

// What a trainer used in a calibration replaces the estimate of everything but
// the activations.
func TestAMeasuredPeakCorrectsTheEstimate(t *testing.T) {
	c := load(t, "cpu", false)
	in := Input{Config: c, Model: smol, Machine: inspect.Machine{Memory: 24e9, Free: 20e9}}
	before := Of(in)
	in.Measured = &Calibration{TrainerPeak: before.Trainer.Total() + 1e9, TrainedRow: before.LongestRow}
	near(t, "total", Of(in).Trainer.Total(), float64(before.Trainer.Total()+1e9), 1e-9)
	in.Server = Server{Processes: 3, Shared: 1e9, Cache: 2e9, Program: 9e9}
	in.Measured.ServerMemory = 8.5e9
	if s := Of(in).Server; s.Program != 5e8 || s.Total() != 8.5e9 {
		t.Errorf("%+v", s)
	}
	in.Measured.TrainedRow = 16 // most of that peak was not activations
	if after := Of(in).Trainer.Total(); after <= before.Trainer.Total()+1e9 {
		t.Errorf("%d", after)
	}
}

// A plan is printed and stored.
func TestAPlanDoesNotShowThePasswordOfTheTrainer(t *testing.T) {
	c := load(t, "cpu", false, `trainer.url="https://user:secret@gpu.example/team"`)
	if got := Of(Input{Config: c, Model: smol}).Trainer.Elsewhere; got != "https://gpu.example/team" {
		t.Errorf("the trainer is at %q", got)
	}
}
