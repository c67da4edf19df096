// Package forecast predicts what a run will need: memory of trainer and server,
// time and tokens of a step, and disk. Start with [Of]. It computes only: what
// was measured before ([Calibration]) is given to it, and so is what the backend
// knows about its server ([Server]).
package forecast

import (
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// Input is what a prediction depends on.
type Input struct {
	Config   config.Config
	Model    inspect.Model
	Machine  inspect.Machine
	FreeDisk int64 // bytes, where the run's folder is; 0: unknown
	Server   Server
	Runs     int          // such runs at the same time; 0: one
	Measured *Calibration // nil: nothing was measured, times are unknown
}

// Server is what a backend predicts of the inference servers that empo2 starts.
// The zero value means that empo2 starts none.
type Server struct {
	Name  string `json:"name"` // of the program
	OnGPU bool   `json:"on_gpu"`
	// Processes run at the same time while a version replaces another, of all replicas.
	Processes int `json:"processes"`
	// EachGPU: a process on several GPUs needs that much on each. Otherwise it is divided.
	EachGPU bool `json:"-"`
	// Shared is memory that all processes have together, such as mapped weights; on a
	// GPU each process has its own. The other values are of each process. All are in
	// bytes.
	Shared  int64 `json:"shared_bytes"`
	Program int64 `json:"program_bytes"`
	Cache   int64 `json:"cache_bytes"` // keys and values
	// CacheText says how Cache follows from the configuration.
	CacheText string `json:"cache_text"`
	// Remedy names the keys that make it smaller or give it more of a GPU,
	// SleepRemedy those with which it gives memory to the trainer.
	Remedy      string `json:"remedy"`
	SleepRemedy string `json:"-"`
	// Sleeps: it gives its GPU memory back while the trainer works.
	Sleeps bool `json:"sleeps"`
}

// Total is the memory of all processes in bytes.
func (s Server) Total() int64 {
	n := int64(s.Processes)
	if s.OnGPU {
		return n * (s.Shared + s.Program + s.Cache)
	}
	return s.Shared + n*(s.Program+s.Cache)
}

// corrected changes Program so that the total is what was measured; 0: nothing
// was.
func (s Server) corrected(total int64) Server {
	if total > 0 && s.Processes > 0 && !s.OnGPU {
		s.Program = max(0, (total-s.Shared)/int64(s.Processes)-s.Cache)
	}
	return s
}

// Calibration has values that were measured with the model, the server and the
// environment of the run. Times are in seconds.
type Calibration struct {
	Episodes      int     `json:"episodes"`         // played, at least in part
	Complete      int     `json:"complete"`         // of them, those that ended
	Turns         float64 `json:"turns"`            // of an episode; unfinished ones count with the limit
	TurnsPerSec   float64 `json:"turns_per_second"` // of all episodes together, reflection included
	EpisodeTokens float64 `json:"episode_tokens"`   // of an episode's rows, as they are trained
	RowTokens     float64 `json:"row_tokens"`       // of an episode's rows, as they were sampled
	LongestRow    int     `json:"longest_row"`      // tokens
	EpisodeBytes  float64 `json:"episode_bytes"`    // of an episode in run.db

	TrainTokensPerSec float64 `json:"train_tokens_per_second"` // forward and backward
	ScoreTokensPerSec float64 `json:"score_tokens_per_second"` // forward
	OptimSeconds      float64 `json:"optim_seconds"`           // of an optimizer step
	ExportSeconds     float64 `json:"export_seconds"`          // of checkpoint and adapter
	PublishSeconds    float64 `json:"publish_seconds"`
	TrainerPeak       int64   `json:"trainer_peak_bytes"` // with the longest row that was trained
	TrainedRow        int     `json:"trained_row"`        // tokens of that row
	ServerMemory      int64   `json:"server_bytes"`       // of all processes together; 0: unknown
	AdapterBytes      int64   `json:"adapter_bytes"`      // of one version on disk
	CheckpointBytes   int64   `json:"checkpoint_bytes"`
}

// Forecast is the prediction. Sizes are in bytes, times in seconds; 0 means
// unknown.
type Forecast struct {
	Model      string  `json:"model"`
	Parameters int64   `json:"parameters"`
	Device     string  `json:"device"` // cpu or gpu: where the trainer works
	Episodes   int     `json:"episodes_per_step"`
	LongestRow int     `json:"longest_row"`     // tokens that an episode may have
	StepTokens float64 `json:"tokens_per_step"` // of rows, if every group has a gradient
	Trainer    Trainer `json:"trainer"`
	Server     Server  `json:"server"`
	Disk       Disk    `json:"disk"`
	Time       Time    `json:"time"`
	Steps      int     `json:"steps"`

	Memory     int64 `json:"machine_memory_bytes"`
	FreeMemory int64 `json:"machine_free_bytes"`
	GPUMemory  int64 `json:"gpu_memory_bytes"` // of the first GPU
	oneGPU     bool  // there are no others
	gpus       int   // how many there are
	ranksOnCPU bool  // trainer.gpus counts processes
	FreeDisk   int64 `json:"free_disk_bytes"`
	// Needed is the main memory of trainer and servers together.
	Needed int64 `json:"needed_bytes"`
	// GPUs are those that the run uses. NeededGPU is what the fullest of them needs in
	// the busier of the two phases: sampling and training.
	GPUs      []GPU `json:"gpus,omitempty"`
	NeededGPU int64 `json:"needed_gpu_bytes"`
	gpuCount  int   // of the machine
	placed    bool  // it is known which GPU holds what
	// Problems say why it does not fit, each with the keys that help.
	Problems []Problem    `json:"problems"` // empty: it fits
	Measured *Calibration `json:"measured,omitempty"`
}

// Problem is a reason why a run does not fit, and its remedy.
type Problem struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"`
	// Fatal: the run cannot work on this machine as it is now. Otherwise it may:
	// the need grows with the steps, or the prediction does not know which GPU
	// holds what.
	Fatal bool `json:"fatal"`
}

// Time of a step and of the run in seconds.
type Time struct {
	Sample  float64 `json:"sample"`
	Train   float64 `json:"train"` // if every group has a gradient
	Publish float64 `json:"publish"`
	Step    float64 `json:"step"`
	// Overlapped: a step is sampled while another is trained, and takes as long as the slower of both.
	Overlapped bool    `json:"overlapped,omitempty"`
	Eval       float64 `json:"evaluations"` // all of them
	Total      float64 `json:"total"`       // of the run's steps and evaluations
}

// Of predicts a run.
func Of(in Input) Forecast {
	c := in.Config
	f := Forecast{
		Model: in.Model.Path, Parameters: in.Model.Parameters, Device: device(c, in.Machine),
		Episodes: c.Algorithm.Groups * c.Algorithm.GroupSize, Steps: c.Run.Steps, Server: in.Server,
		LongestRow: c.ContextTokens(in.Model.Context), Measured: in.Measured,
		Memory: in.Machine.Memory, FreeMemory: in.Machine.Free, FreeDisk: in.FreeDisk,
	}
	f.gpus, f.ranksOnCPU = len(in.Machine.GPUs), c.Trainer.Device == "cpu"
	if len(in.Machine.GPUs) > 0 {
		f.GPUMemory, f.oneGPU = in.Machine.GPUs[0].Memory, len(in.Machine.GPUs) == 1
	}
	tokens := float64(f.LongestRow) // of an episode, at most
	if m := in.Measured; m != nil {
		tokens = m.EpisodeTokens
		f.Time = times(c, *m)
		f.Server = f.Server.corrected(m.ServerMemory)
	}
	if c.Algorithm.Name != "adapt" {
		f.StepTokens = float64(f.Episodes) * tokens
	}
	switch {
	case c.Algorithm.Name == "adapt":
	case c.Trainer.URL != "": // what its machine has is unknown
		f.Trainer = Trainer{Elsewhere: safetext.URL(c.Trainer.URL), Program: companion,
			AdapterN: adapterValues(c, in.Model.Shape)}
	default:
		f.Trainer = trainerMemory(in, f)
	}
	f.Disk = disk(in, f)
	f.gpuCount = len(in.Machine.GPUs)
	f.place(c, in.Machine)
	f.add()
	f.Problems = f.problems(max(1, in.Runs))
	return f
}

// device is where the trainer works.
func device(c config.Config, m inspect.Machine) string {
	if len(m.GPUs) > 0 && c.Trainer.Device != "cpu" && c.Trainer.URL == "" {
		return "gpu"
	}
	return "cpu"
}

// programOnGPU is the main memory of a trainer whose model is on a GPU.
const programOnGPU = 3e9

// add fills in the sums.
func (f *Forecast) add() {
	trainer, server := f.Trainer.Total(), f.Server.Total()
	if f.Device == "cpu" { // all ranks share the main memory
		trainer *= int64(max(1, f.Trainer.Ranks))
	}
	switch {
	case f.Device == "cpu" && !f.Server.OnGPU:
		f.Needed = trainer + server
	case f.Device == "cpu":
		f.Needed = trainer
	case !f.Server.OnGPU:
		f.Needed = server
	}
	if f.Device == "gpu" && trainer > 0 {
		f.Needed += programOnGPU * int64(f.Trainer.Ranks)
	}
}
