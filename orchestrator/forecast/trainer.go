package forecast

import (
	"slices"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
)

// Trainer is the memory of the trainer in bytes, on its device; with several ranks
// the memory of each of them. Zero: nothing is trained.
type Trainer struct {
	Ranks   int   `json:"ranks"`         // processes, each on a device of its own or all on the CPU
	Sharded bool  `json:"sharded"`       // each rank has a part of every layer
	Program int64 `json:"program_bytes"` // torch itself
	Weights int64 `json:"weights_bytes"` // of the base model
	Adapter int64 `json:"adapter_bytes"` // weights, gradients and both moments
	// Activations of a micro-batch: what the trainer allows itself, or what the
	// longest row needs at least.
	Activations int64 `json:"activations_bytes"`
	// LongestRow is what the longest row needs at least, a part of Activations.
	LongestRow int64 `json:"longest_row_bytes"`
	AdapterN   int64 `json:"adapter_parameters"`
	// Elsewhere is the address of a trainer on another machine, whose memory is unknown. The
	// rest is then what its companion needs here.
	Elsewhere string `json:"elsewhere,omitempty"`
}

// Total is the most that the trainer, or each of its ranks, uses at the same time.
func (t Trainer) Total() int64 { return t.resident() + t.Activations }

// resident is what the trainer keeps between steps.
func (t Trainer) resident() int64 { return t.Program + t.Weights + t.Adapter }

// These are the trainer's own limits (empo2_trainer/budget.py) and sizes that
// were measured with torch 2.11.
const (
	programCPU   = 800e6 // resident memory of Python and torch
	programGPU   = 600e6 // CUDA context
	companion    = 400e6 // resident memory of a trainer's companion
	cpuAllowance = 600 << 20
	cpuTokens    = 4096
	gpuTokens    = 65536
	cpuSpare     = 1.15    // of the allowance, with what checkpointed layers save
	cpuLogits    = 6 << 20 // elements of the head's output held at a time
	gpuLogits    = 1 << 27
	minLogits    = 1 << 21
	cpuBytes     = 24  // of one element on a CPU, with its gradient and the base's
	logitBytes   = 64  // of one element on a GPU, with copies in float32
	shareCPU     = 0.5 // of the free memory that a micro-batch may take
	shareGPU     = 0.75
)

// trainerMemory predicts the memory of the trainer.
func trainerMemory(in Input, f Forecast) Trainer {
	c, s := in.Config, in.Model.Shape
	t := Trainer{Program: programCPU, AdapterN: adapterValues(c, s), Ranks: max(1, c.Trainer.GPUs)}
	item, rank := itemSize(c.Trainer.Dtype), int64(c.Trainer.Rank)
	t.Weights = item * in.Model.Parameters
	if c.Trainer.Quantize == "nf4" {
		embeddings := 2 * s.Vocabulary * s.Hidden
		t.Weights = int64(0.56*float64(max(0, in.Model.Parameters-embeddings))) + item*embeddings
	}
	if t.Sharded = sharded(in, f, t); t.Sharded {
		whole := 2 * item * s.Vocabulary * s.Hidden // embeddings and head
		if s.Tied {
			whole /= 2
		}
		layers := max(0, t.Weights-whole)
		gathered := 2 * layers / max(1, s.Layers) // the layer that computes, and the next one
		t.Weights += layers/int64(t.Ranks) - layers + gathered
	}
	t.Adapter = 4 * 4 * t.AdapterN
	if f.Device == "gpu" {
		t.Program = programGPU
	}
	if m := in.Measured; m != nil && m.TrainerPeak > 0 { // all but the activations is known
		base := m.TrainerPeak - activations(in, f, t, m.TrainedRow)
		t.Program = max(0, base-t.Weights-t.Adapter)
	}
	t.LongestRow = dropped(s, item, rank, int64(f.LongestRow)) + logitBytes*minLogits
	t.Activations = activations(in, f, t, f.LongestRow)
	return t
}

// shardShare is the part of a device that the weights may fill without being sharded,
// as in empo2_trainer/placement.py.
const shardShare = 0.6

// sharded reports whether the ranks share the base model. The trainer decides by the
// memory that is free when it starts.
func sharded(in Input, f Forecast, t Trainer) bool {
	c := in.Config.Trainer
	if t.Ranks == 1 || c.Parallel != "auto" || c.Quantize != "none" {
		return t.Ranks > 1 && c.Parallel == "fsdp2"
	}
	room := f.GPUMemory
	if f.Device == "cpu" {
		room = in.Machine.Memory
		if in.Machine.Free > 0 {
			room = in.Machine.Free
		}
		room /= int64(t.Ranks)
	}
	return room > 0 && float64(t.Weights) > shardShare*float64(room)
}

// activations are the most that a micro-batch takes if no row is longer than
// longest.
func activations(in Input, f Forecast, t Trainer, longest int) int64 {
	s, item, n := in.Model.Shape, itemSize(in.Config.Trainer.Dtype), int64(longest)
	rank := int64(in.Config.Trainer.Rank)
	share, free, tokens := shareCPU, in.Machine.Memory, int64(cpuTokens)
	if in.Machine.Free > 0 {
		free = in.Machine.Free
	}
	free /= int64(max(1, t.Ranks))
	if f.Device == "gpu" {
		share, tokens = shareGPU, gpuTokens
		free = max(0, f.GPUMemory-t.resident())
	}
	if limit := in.Config.Trainer.MicroBatch; limit > 0 {
		tokens = int64(limit)
	}
	allowance, values := int64(share*float64(free)), n*max(1, s.Vocabulary)
	all, least := kept(s, item, rank, max(tokens, n)), dropped(s, item, rank, n)
	if f.Device == "gpu" { // its logits are part of the allowance
		head := logitBytes * min(gpuLogits, max(minLogits, allowance/logitBytes), values)
		return max(min(allowance, min(allowance, all)+head), least+logitBytes*minLogits)
	}
	allowance = min(allowance, cpuAllowance)
	return max(min(int64(cpuSpare*float64(allowance)), all), least) + cpuBytes*min(cpuLogits, values)
}

// layerBytes are what one layer keeps of a token for the backward pass: two
// rows of the MLP (gated by SiLU; others keep more), keys and values, seven of
// LoRA, and hidden states. The coefficients were measured with autograd's saved
// tensors for several shapes.
func layerBytes(s inspect.Shape, item, rank int64) int64 {
	hidden := int64(6)
	if item < 4 { // norms are computed in float32
		hidden = 8
	}
	return item * (2*s.Intermediate + 2*s.KVHeads*s.HeadDim + 7*rank + hidden*s.Hidden)
}

// ends are the activations before the first and after the last layer.
func ends(s inspect.Shape, item int64) int64 { return 4 * s.Hidden * item }

// kept are the activations of n tokens if none is dropped. Two more layers are
// counted for gradients.
func kept(s inspect.Shape, item, rank, n int64) int64 {
	return n * ((s.Layers+2)*layerBytes(s, item, rank) + ends(s, item))
}

// dropped are the activations of n tokens with checkpointed layers.
func dropped(s inspect.Shape, item, rank, n int64) int64 {
	return n * (s.Layers*s.Hidden*item + 2*layerBytes(s, item, rank) + ends(s, item))
}

// adapterValues counts the values of a LoRA adapter.
func adapterValues(c config.Config, s inspect.Shape) int64 {
	attention := slices.Contains(c.Trainer.TargetModules, "attention")
	return int64(c.Trainer.Rank) * s.Layers * s.Linear(attention)
}

// itemSize is the size of a number in bytes.
func itemSize(dtype string) int64 {
	if dtype == "float32" {
		return 4
	}
	return 2
}
