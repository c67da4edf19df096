package orchestrator

import (
	"cmp"

	"github.com/empo2/empo2/orchestrator/advantage"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// Batch holds the episodes of a step that carry a gradient, and those of other groups if
// loss.flat_groups keeps them.
type Batch struct {
	Step       int64
	Episodes   []trainedEpisode
	Groups     int     // groups estimated
	NoGradient int     // of them, groups of equal returns
	Overlong   float64 // mean penalty of an episode for long replies
	// Estimated are all episodes that have a return, in the plan's order.
	Estimated []ledger.Estimate
}

// trainedEpisode is one episode as it is trained.
type trainedEpisode struct {
	group, number int // of the plan
	advantage     float64
	// byToken are the advantages of the trained tokens in order, if they differ
	// (GiGPO). advantage is their mean.
	byToken []float64
	// rows are trained: rendered with tips or, off-policy, without them; the
	// log-probs are always those of the context that was sampled.
	rows []rollout.Row
	// importanceWeights belong to the rows' tokens; nil: all 1.
	importanceWeights [][]float32
	// sampled are the rows in which the policy was sampled.
	sampled []rollout.Row
	// versions sampled the trained tokens of sampled, in order; nil: the one that the
	// update begins with sampled all of them.
	versions []int
	// klRows only carry the KL to the base model in the sampled context, where
	// that is not the trained one.
	klRows []rollout.Row
	tokens int // trained tokens in rows
	// sampledContext: the rows are trained in the context that was sampled.
	sampledContext bool
}

// estimateStage turns returns into group advantages.
type estimateStage struct {
	config  config.Config
	enabled bool // something is trained
	memory  bool // there is a memory
}

// run estimates the advantages of every group. Every episode that has a return
// counts in its group's statistics, whether or not it is trained. The reference
// implementation drops some before.
func (s estimateStage) run(in Sampled) Batch {
	out := Batch{Step: in.Plan.Step}
	if !s.enabled {
		return out
	}
	var groups []scoredGroup
	var returns [][]advantage.Episode
	for g, group := range in.Groups {
		scored := s.score(group, in.Plan.Groups[g], in.Version)
		if in.tied[g] {
			out.Groups, out.NoGradient = out.Groups+1, out.NoGradient+1
		}
		if in.stale[g] || in.tied[g] {
			out.record(scored)
			continue
		}
		groups, returns = append(groups, scored), append(returns, scored.returns)
	}
	out.Overlong = s.meanOverlong(in)
	for g, estimated := range advantage.Step(returns, s.options()) {
		group := groups[g]
		for i := range group.episodes {
			group.episodes[i].advantage = estimated.Advantages[i]
		}
		if s.config.Algorithm.Estimator == gigpo {
			estimated.Gradient = s.addTurns(group)
		}
		out.add(group, estimated.Gradient, s.config.Loss.FlatGroups)
	}
	return out
}

// meanOverlong is the mean penalty for long replies over the episodes that did not fail.
func (s estimateStage) meanOverlong(in Sampled) float64 {
	sum, n := 0.0, 0
	for _, group := range in.Groups {
		for _, t := range group {
			if !t.Failed() {
				sum, n = sum+overlongSum(s.config.Rollout, t), n+1
			}
		}
	}
	return sum / float64(max(n, 1))
}

// A scoredGroup holds the episodes of a group that have a return, in the plan's order.
type scoredGroup struct {
	trajectories []rollout.Trajectory
	returns      []advantage.Episode
	episodes     []trainedEpisode
}

// score leaves out the episodes of a group that have no return. version is the one that
// the update begins with.
func (s estimateStage) score(group []rollout.Trajectory, plan GroupPlan, version int) (out scoredGroup) {
	for i, t := range group {
		if t.Failed() || !fits(t) {
			continue
		}
		mode := plan.Episodes[i].Mode
		r := advantage.Episode{Env: t.EnvReturn + overlongSum(s.config.Rollout, t), Bonus: bonus(t, s.config.Novelty.Weight),
			Tips: mode.Tips(), OffPolicy: mode == OffPolicy}
		e := s.episode(t, r)
		e.versions = versionsOfTokens(e.sampled, t.Turns, version, s.config.Rollout.MaskTruncated)
		r.Tokens = e.tokens
		out.trajectories, out.returns = append(out.trajectories, t), append(out.returns, r)
		out.episodes = append(out.episodes, e)
	}
	return out
}

// record notes the episodes of a group that is not trained.
func (b *Batch) record(group scoredGroup) {
	for i, e := range group.episodes {
		b.Estimated = append(b.Estimated, ledger.Estimate{Group: e.group, Episode: e.number, Bonus: group.returns[i].Bonus})
	}
}

// add takes over a group. Its episodes are trained if it has a gradient, or if flat
// groups are kept.
func (b *Batch) add(group scoredGroup, gradient, flat bool) {
	b.Groups++
	if !gradient {
		b.NoGradient++
	}
	for i, e := range group.episodes {
		estimate := ledger.Estimate{Group: e.group, Episode: e.number, Bonus: group.returns[i].Bonus}
		if gradient || flat {
			if e.tokens > 0 {
				b.Episodes = append(b.Episodes, e)
			}
			estimate.Advantage, estimate.Tokens = e.advantage, e.tokens
		}
		b.Estimated = append(b.Estimated, estimate)
	}
}

// gigpo is the value of algorithm.estimator that adds advantages of turns to those of
// GRPO.
const gigpo = "gigpo"

// options are the estimator's.
func (s estimateStage) options() advantage.Options {
	a := s.config.Algorithm
	o := advantage.Options{
		Estimator: advantage.Estimator(a.Estimator), Baseline: advantage.Group, Normalize: a.NormalizeStd,
	}
	if a.Estimator == gigpo { // its episodes' part
		o.Estimator = advantage.GRPO
	}
	if s.memory {
		o.Baseline = advantage.Baseline(a.Baseline)
	}
	return o
}

// addTurns adds GiGPO's advantages of the turns to those of a group's episodes. A turn's
// state is the environment's, without tips. It reports whether a token has an advantage.
func (s estimateStage) addTurns(group scoredGroup) (gradient bool) {
	n := len(group.episodes)
	episodes, turns := make([]float64, n), make([][]advantage.Turn, n)
	for i, t := range group.trajectories {
		episodes[i] = group.episodes[i].advantage
		for _, turn := range t.Turns {
			anchor := cmp.Or(turn.Observation.State, turn.Observation.Feedback)
			turns[i] = append(turns[i], advantage.Turn{Anchor: anchor,
				Reward: turn.Reward + overlong(s.config.Rollout, len(turn.IDs))})
		}
	}
	a := s.config.Algorithm
	o := advantage.StepOptions{Discount: a.StepDiscount, Weight: a.StepWeight, Normalize: a.NormalizeStd}
	for i, of := range advantage.AddTurns(episodes, turns, o) {
		e, t := &group.episodes[i], group.trajectories[i]
		e.advantage, e.byToken = 0, nil
		for _, turn := range turnsOfTokens(e.rows, t.Turns) {
			if s.config.Rollout.MaskTruncated && t.Turns[turn].Finish == sampler.FinishLength {
				continue // its tokens are not trained
			}
			e.byToken = append(e.byToken, of[turn])
			e.advantage += of[turn] / float64(e.tokens)
			gradient = gradient || of[turn] != 0
		}
	}
	return gradient
}

// episode chooses the rows of an episode. For an off-policy episode these are
// the rows that were rendered without tips.
func (s estimateStage) episode(t rollout.Trajectory, e advantage.Episode) trainedEpisode {
	out := trainedEpisode{
		group: t.Group, number: t.Episode,
		rows: t.Rows(e.Tips && !e.OffPolicy), sampled: t.Rows(true), sampledContext: !e.OffPolicy,
	}
	if e.OffPolicy && s.config.Loss.KLSampled > 0 {
		out.klRows = t.Rows(true)
	}
	if s.config.Rollout.MaskTruncated {
		out.rows, out.sampled = maskTruncated(out.rows, t.Turns), maskTruncated(out.sampled, t.Turns)
		out.klRows = maskTruncated(out.klRows, t.Turns)
	}
	for _, r := range out.rows {
		out.tokens += countTrained(r)
	}
	return out
}

// estimates returns what is recorded of the step's episodes: the estimates, and the
// trainer's log-probs of the rows that were trained.
func (b Batch) estimates(u *Update) []ledger.Estimate {
	if u == nil {
		return b.Estimated
	}
	type place struct{ group, number int }
	of := map[place][]float32{}
	for _, e := range b.Episodes {
		of[place{e.group, e.number}] = u.trainedLogprobs(e)
	}
	for i := range b.Estimated {
		e := &b.Estimated[i]
		e.Logprobs = of[place{e.Group, e.Episode}]
	}
	return b.Estimated
}

// trainedLogprobs returns the trainer's log-probs of an episode's trained tokens;
// nil if a row has none.
func (u *Update) trainedLogprobs(e trainedEpisode) []float32 {
	var out []float32
	for i, r := range e.rows {
		logprobs := u.Logprobs[rowKey{group: e.group, episode: e.number, row: i}]
		if len(logprobs) != len(r.Tokens)-1 {
			return nil
		}
		for k, trained := range r.LossMask {
			if trained && k > 0 {
				out = append(out, logprobs[k-1])
			}
		}
	}
	return out
}

func countTrained(r rollout.Row) int {
	n := 0
	for _, trained := range r.LossMask {
		if trained {
			n++
		}
	}
	return n
}

// bonus is λ·Σ_t 1/n_t with n = 1 + similar entries (EMPO², section 4.1), over
// the turns at which the memory was asked.
func bonus(t rollout.Trajectory, weight float64) float64 {
	sum := 0.0
	for _, turn := range t.Turns {
		if turn.Similar >= 0 {
			sum += weight / float64(1+turn.Similar)
		}
	}
	return sum
}
