package orchestrator

import (
	"time"

	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// newStepMetrics describes a step that is about to be committed.
func newStepMetrics(f finishedStep, noveltyWeight float64) StepMetrics {
	m := StepMetrics{
		Step: f.planned.Step, Version: f.published.Policy.Version, Episodes: f.before.episodes,
		Modes: map[Mode]int{}, Stops: map[rollout.StopReason]int{},
		Groups: f.batch.Groups, NoGradient: f.batch.NoGradient, LeftOut: f.leftOut, Diverging: f.diverging, Phases: f.phases,
		Late: f.late,
	}
	if m.MemoryProbability = f.planned.MemoryProbability; f.planned.Further > 0 {
		m.Batches = f.planned.Further + 1
	}
	m.Overlong = f.batch.Overlong
	m.describeEpisodes(f.sampled, noveltyWeight)
	if f.update != nil {
		m.describeUpdate(*f.update)
	}
	if f.published.Version != nil {
		m.Canary = f.published.Version.Canary
	}
	m.ServerMemory = f.published.ServerMemory
	m.Seconds.Sample, m.Seconds.Publish = f.sampled.Seconds, f.published.Seconds
	m.Seconds.Total = time.Since(f.begun).Seconds()
	m.Overlap.Staleness = f.sampled.Staleness
	if f.sampling != nil {
		m.Overlap.Sampling = new(f.sampling.take())
	}
	return m
}

func (m *StepMetrics) describeUpdate(u Update) {
	m.Rows, m.Trained = u.Rows, int(u.Stats.Tokens())
	m.MaskShare, m.ClipShare = u.Stats.MaskedShare(), u.Stats.ClippedShare()
	m.Ratio, m.RatioMax = u.Stats.MeanRatio(), u.Stats.MaxRatio()
	m.ApproxKL, m.Entropy, m.KLBase = u.Stats.ApproxKL(), u.Stats.Entropy(), u.Stats.KLBase()
	m.GradNorm = u.GradNorm
	m.Unknown = u.unknown()
	m.Mismatch, m.Corrected = u.Mismatch, u.Corrected
	m.Restarts, m.Trainer = u.Restarts, trainerUsage(u.Stats)
	m.Seconds.Train = u.Seconds
}

// unknown are the values that the trainer did not report, by their names in JSON.
func (u Update) unknown() (names []string) {
	if !u.Stats.KnowsEntropy() {
		names = append(names, "entropy")
	}
	if !u.Stats.KnowsGradNorm() {
		names = append(names, "grad_norm")
	}
	return names
}

func trainerUsage(s trainerbridge.Stats) TrainerUsage {
	return TrainerUsage{
		RowTokens: int(s.RowTokens()), Seconds: s.Seconds(), TokensPerSecond: s.TokensPerSecond(),
		PeakMemory: s.PeakMemory(), MFU: s.MFU(), PaddingShare: s.PaddingShare(), MicroBatches: s.MicroBatches(),
		Checkpointed: s.Checkpointed(), MicroBatchTokens: s.MicroBatchTokens(), OutOfMemory: s.OutOfMemory(),
	}
}

func (m *StepMetrics) describeEpisodes(in Sampled, noveltyWeight float64) {
	for g, group := range in.Groups {
		for e, t := range group {
			mode := in.Plan.Groups[g].Episodes[e].Mode
			m.Stops[t.Stop]++
			if t.Failed() {
				if t.Stop == rollout.StopCancelled {
					m.Cancelled++
				} else {
					m.Failed++
				}
				continue
			}
			m.Modes[mode]++
			m.Episodes++
			m.Replies.add(t)
			if t.Tip != "" {
				m.NewTips++
			}
			if mode.Tips() {
				m.Tips.add(t, noveltyWeight)
			} else {
				m.Free.add(t, noveltyWeight)
			}
		}
	}
	m.Free.divide()
	m.Tips.divide()
}

// add adds one episode to the sums.
func (r *EpisodeStats) add(t rollout.Trajectory, noveltyWeight float64) {
	r.N++
	r.Return += t.EnvReturn
	r.Bonus += bonus(t, noveltyWeight)
	r.Score += t.Score
	r.Turns += float64(len(t.Turns))
	if t.Success {
		r.Success++
	}
	for _, turn := range t.Turns {
		r.TipsShown += float64(len(turn.Tips))
	}
}

// divide turns the sums into means.
func (r *EpisodeStats) divide() {
	n := float64(max(r.N, 1))
	for _, v := range []*float64{&r.Return, &r.Bonus, &r.Score, &r.Success, &r.Turns, &r.TipsShown} {
		*v /= n
	}
}
