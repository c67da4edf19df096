package forecast

import (
	"slices"

	"github.com/empo2/empo2/orchestrator/config"
)

// Disk is what a run writes, in bytes.
type Disk struct {
	Adapter    int64 `json:"adapter_bytes"`    // of one version, in all formats
	Checkpoint int64 `json:"checkpoint_bytes"` // of one version
	Episodes   int64 `json:"episodes_bytes"`   // of one step, in run.db
	// Total is the run's folder after its last step.
	Total int64 `json:"total_bytes"`
}

// tokenBytes is what a token of an episode takes in run.db: ids and log-probs of
// both renderings as JSON, and the text. It was measured on ScienceWorld.
const tokenBytes = 30

// disk predicts the size of the run's folder.
func disk(in Input, f Forecast) Disk {
	c := in.Config
	perEpisode := float64(tokenBytes * f.LongestRow)
	d := Disk{}
	if f.Trainer.AdapterN > 0 {
		formats := int64(1)
		if slices.Contains(c.Sampler.AdapterFormats(), "gguf") {
			formats = int64(len(c.Sampler.AdapterFormats()))
		}
		d.Adapter, d.Checkpoint = 4*formats*f.Trainer.AdapterN, 3*4*f.Trainer.AdapterN
	}
	if m := in.Measured; m != nil {
		perEpisode = m.EpisodeBytes
		if m.AdapterBytes > 0 {
			d.Adapter, d.Checkpoint = m.AdapterBytes, m.CheckpointBytes
		}
	}
	d.Episodes = int64(perEpisode * float64(f.Episodes))
	versions := int64(min(c.KeptCheckpoints(), c.Run.Steps))
	d.Total = versions*(d.Adapter+d.Checkpoint) + int64(c.Run.Steps)*d.Episodes +
		int64(perEpisode*float64(evaluated(c)))
	return d
}

// evaluated counts the episodes of all evaluations. The last step is evaluated on
// both splits.
func evaluated(c config.Config) int {
	n := 2 * c.Eval.FinalEpisodes
	if c.Eval.Every > 0 {
		n += c.Run.Steps / c.Eval.Every * c.Eval.Episodes
	}
	return n
}
