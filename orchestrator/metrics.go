package orchestrator

import (
	"encoding/json"
	"slices"

	"github.com/empo2/empo2/sampler/rollout"
)

// StepMetrics describes one committed step. It is shown, stored in the ledger
// and printed as a JSON line. Log-probs and KL are in nats, times in seconds.
type StepMetrics struct {
	Step     int64        `json:"step"`
	Version  int          `json:"version"`  // of the policy after the step
	Episodes int          `json:"episodes"` // training episodes so far, this step included, without failed ones
	Modes    map[Mode]int `json:"modes"`    // the same of this step, by learning mode
	Failed   int          `json:"failed"`   // episodes that failed after all retries
	// Cancelled counts episodes that the step did not wait for (rollout.quorum).
	Cancelled int `json:"cancelled,omitempty"`
	// Stops counts episodes by the reason why they ended.
	Stops map[rollout.StopReason]int `json:"stops"`

	Replies Replies `json:"replies"`

	Free EpisodeStats `json:"free"` // sampled without tips
	Tips EpisodeStats `json:"tips"` // sampled with tips

	Groups     int `json:"groups"`
	NoGradient int `json:"no_gradient"` // groups of equal returns, which are not trained
	// Batches of groups were sampled; 0: one (algorithm.generation_batches).
	Batches int `json:"batches,omitempty"`
	// MemoryProbability is p_mem of the step if it is annealed (algorithm.memory_anneal).
	MemoryProbability float64 `json:"memory_probability,omitempty"`
	// Overlong is the mean penalty of an episode for long replies, 0 or below.
	Overlong  float64 `json:"overlong,omitempty"`
	Rows      int     `json:"rows"`       // training rows sent
	Trained   int     `json:"trained"`    // tokens trained
	MaskShare float64 `json:"mask_share"` // of trained tokens: off-policy, below the log-prob floor
	ClipShare float64 `json:"clip_share"`
	Ratio     float64 `json:"ratio"` // mean importance ratio
	RatioMax  float64 `json:"ratio_max"`
	ApproxKL  float64 `json:"approx_kl"` // mean log π_old - log π_θ
	KLBase    float64 `json:"kl_base"`   // mean KL(π_θ‖π_base) where it is counted
	Entropy   float64 `json:"entropy"`
	GradNorm  float64 `json:"grad_norm"`
	Canary    float64 `json:"canary"` // largest difference of log-probs in the newest canary

	// Mismatch compares the server's log-probs of sampled tokens with the
	// trainer's before the update, in the context that was sampled. It covers
	// some of the step's episodes, or all of them if Corrected.
	Mismatch Mismatch `json:"mismatch"`
	// Corrected: the trainer's log-probs replace the server's, and tokens have
	// truncated importance weights.
	Corrected bool `json:"corrected"`

	// Trainer is what the step's passes cost; zero if nothing was trained.
	Trainer TrainerUsage `json:"trainer"`
	// ServerMemory is that of the inference servers that empo2 started, in bytes,
	// while two versions were served; 0: unknown.
	ServerMemory int64 `json:"server_memory_bytes"`

	// Late counts the requests that were late at their replica and sent to another one
	// too. One answer of each counts.
	Late int `json:"late_requests,omitempty"`
	// Unknown are the values that the trainer does not report, by their names in JSON; they are 0.
	Unknown []string `json:"unknown,omitempty"`

	LeftOut   int      `json:"left_out,omitempty"`  // rows and episodes that the trainer refused
	Diverging []string `json:"diverging,omitempty"` // signs that the training diverges

	// Overlap is set if steps were sampled while others were trained (rollout.max_staleness),
	// or if groups were dropped because of their age.
	Overlap Overlap `json:"overlap,omitzero"`

	NewTips  int `json:"new_tips"`
	Restarts int `json:"restarts"` // of the trainer, in this step

	Seconds Seconds `json:"seconds"`
	// Phases are those of the step before its commit.
	Phases []PhaseRecord `json:"phases,omitempty"`
}

// Knows reports whether the trainer has reported a value of the step, by its name in JSON.
func (m StepMetrics) Knows(name string) bool {
	return m.Trained > 0 && !slices.Contains(m.Unknown, name)
}

// TrainerUsage is what the passes of a step cost. A value is 0 if the trainer
// does not report it.
type TrainerUsage struct {
	RowTokens        int     `json:"row_tokens"`        // of all rows, trained or not
	Seconds          float64 `json:"seconds"`           // of the passes alone
	TokensPerSecond  float64 `json:"tokens_per_second"` // row tokens
	PeakMemory       int64   `json:"peak_memory_bytes"` // of the GPU; on a CPU of the process
	MFU              float64 `json:"mfu"`               // model FLOP utilisation, 0 to 1; 0: not on a known GPU
	PaddingShare     float64 `json:"padding_share"`     // of the tokens computed
	MicroBatches     int     `json:"micro_batches"`
	Checkpointed     int     `json:"checkpointed"`       // micro-batches that computed their layers twice
	MicroBatchTokens int     `json:"micro_batch_tokens"` // limit of one at the end
	OutOfMemory      int     `json:"out_of_memory"`      // how often the limit was halved
}

// EpisodeStats summarises episodes of one kind.
type EpisodeStats struct {
	N         int     `json:"n"`
	Return    float64 `json:"return"`     // mean environment return
	Bonus     float64 `json:"bonus"`      // mean λ·Σ intrinsic reward
	Score     float64 `json:"score"`      // mean environment score
	Success   float64 `json:"success"`    // share
	Turns     float64 `json:"turns"`      // mean
	TipsShown float64 `json:"tips_shown"` // mean per episode
}

// Seconds divides the time of a step.
type Seconds struct {
	Sample  float64 `json:"sample"` // episodes and reflection; with an overlap, partly before the step
	Train   float64 `json:"train"`
	Publish float64 `json:"publish"` // export, load, canary
	Total   float64 `json:"total"`   // until the commit; with an overlap, since the commit before
}

// Overlap says how sampling and training went on beside each other.
type Overlap struct {
	Staleness Staleness `json:"staleness"`
	// Sampling is how long episodes were sampled during the step, those of later steps
	// included, in seconds of Seconds.Total. Nil: no step was sampled while another was trained.
	Sampling *float64 `json:"sampling,omitempty"`
}

// Idle returns the shares of the step in which the servers had no training episode to
// sample, and in which the trainer trained nothing. ok is false if the step took no time.
func (m StepMetrics) Idle() (server, trainer float64, ok bool) {
	sampling := m.Seconds.Sample
	if m.Overlap.Sampling != nil {
		sampling = *m.Overlap.Sampling
	}
	share := func(busy float64) float64 { return min(1, max(0, 1-busy/m.Seconds.Total)) }
	if m.Seconds.Total <= 0 {
		return 0, 0, false
	}
	return share(sampling), share(m.Seconds.Train), true
}

// Evaluation is the result of episodes on a split.
type Evaluation struct {
	Kind        string  `json:"kind"` // the split: eval or test
	Step        int64   `json:"step"`
	Version     int     `json:"version"`
	Episodes    int     `json:"episodes"`
	Failed      int     `json:"failed,omitempty"`
	Temperature float64 `json:"temperature"`
	Tips        bool    `json:"tips,omitempty"` // tips were shown (adaptation runs only)
	Success     float64 `json:"success"`        // share of episodes
	Score       float64 `json:"score"`          // mean
	StdErr      float64 `json:"stderr"`         // of the mean score, over episodes
	// Replies counts the replies of the episodes that did not fail, and Stops says how all
	// of them ended. Evaluations of an earlier version have neither.
	Replies Replies                    `json:"replies,omitzero"`
	Stops   map[rollout.StopReason]int `json:"stops,omitempty"`
	Tasks   []TaskResult               `json:"tasks"`
	Seconds float64                    `json:"seconds"`
	// TrainSeconds and TrainEpisodes are the cost of training until then,
	// without evaluations.
	TrainSeconds  float64 `json:"train_seconds"`
	TrainEpisodes int     `json:"train_episodes"`
	// Environment is the environment's record of what its scores depend on.
	Environment json.RawMessage `json:"environment,omitempty"`
}

// TaskResult is one task's part of an evaluation.
type TaskResult struct {
	Task     string  `json:"task"`
	Episodes int     `json:"episodes"`
	Success  float64 `json:"success"`
	Score    float64 `json:"score"`
}
