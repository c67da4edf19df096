package forecast

import (
	"math"

	"github.com/empo2/empo2/orchestrator/config"
)

// scored is how many episodes the trainer scores before a step, to compare its
// log-probs with the server's.
const scored = 8

// times predicts a step from what was measured.
func times(c config.Config, m Calibration) Time {
	n := float64(c.Algorithm.Groups * c.Algorithm.GroupSize)
	t := Time{Sample: div(n*m.Turns, m.TurnsPerSec)}
	if c.Algorithm.Name != "adapt" {
		epochs := float64(c.Loss.Epochs)
		steps := epochs * math.Ceil(n/float64(max(1, c.Loss.MiniBatch)))
		t.Train = div(epochs*n*m.EpisodeTokens, m.TrainTokensPerSec) +
			div(min(scored, n)*m.RowTokens, m.ScoreTokensPerSec) + steps*m.OptimSeconds + m.ExportSeconds
		t.Publish = m.PublishSeconds
	}
	t.Overlapped = c.Rollout.MaxStaleness > 0
	t.Step = t.step(t.Train + t.Publish)
	episodes := float64(c.Eval.FinalEpisodes)
	if c.Eval.Every > 0 {
		episodes += float64((c.Run.Steps-1)/c.Eval.Every+1) * float64(c.Eval.Episodes)
	}
	t.Eval = div(episodes*m.Turns, m.TurnsPerSec)
	t.Total = float64(c.Run.Steps)*t.Step + t.Eval
	if limit := c.Run.MaxSeconds; limit > 0 {
		t.Total = min(t.Total, limit+t.Step+t.Eval)
	}
	return t
}

// step is the time of a step whose training and publishing take so long.
func (t Time) step(update float64) float64 {
	if t.Overlapped {
		return max(t.Sample, update)
	}
	return t.Sample + update
}

// div is 0 where nothing was measured.
func div(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}
