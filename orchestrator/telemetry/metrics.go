// Package telemetry shows a run to other programs: TensorBoard, Prometheus, trackio,
// and whatever reads CSV or JSON lines.
//
//   - metrics.go names what a step and an evaluation measure, in our words and in those
//     of TRL, verl and prime-rl. [Metrics] is the table.
//   - points.go reads a run ([Read]) and turns steps into [Point]s.
//   - tensorboard.go, trackio.go and files.go write them.
//   - prometheus.go serves the newest values while a run goes on.
package telemetry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/sampler/rollout"
)

// The schemes of names.
const (
	Ours    = "empo2"
	TRL     = "trl"
	Verl    = "verl"
	PrimeRL = "prime-rl"
)

// Schemes are the names of all schemes.
var Schemes = []string{TRL, Verl, PrimeRL, Ours}

// A Metric is one number of a training step.
type Metric struct {
	Name    string // ours; parts are separated by slashes
	Meaning string // with its unit
	// The names of the same quantity in other programs; empty: they have none that
	// means the same.
	TRL, Verl, PrimeRL string

	of func(orchestrator.StepMetrics) (float64, bool) // false: the step has no such value
}

// In returns the name in a scheme. What TRL has no name for is called train/NAME there,
// as TRL calls metrics of the user's own; in the other schemes it is empo2/NAME.
func (m Metric) In(scheme string) string {
	switch {
	case scheme == Ours:
		return m.Name
	case scheme == TRL && m.TRL == "":
		return "train/" + m.Name
	case scheme == TRL:
		return "train/" + m.TRL
	case scheme == Verl && m.Verl != "":
		return m.Verl
	case scheme == PrimeRL && m.PrimeRL != "":
		return m.PrimeRL
	}
	return "empo2/" + m.Name
}

type step = orchestrator.StepMetrics

// always is a value that each step has.
func always(f func(step) float64) func(step) (float64, bool) {
	return func(m step) (float64, bool) { return f(m), true }
}

// trained is a value that a step has if it has trained something.
func trained(f func(step) float64) func(step) (float64, bool) {
	return func(m step) (float64, bool) { return f(m), m.Trained > 0 }
}

// reported is trained for a value that some trainers do not report.
func reported(name string, f func(step) float64) func(step) (float64, bool) {
	return func(m step) (float64, bool) { return f(m), m.Knows(name) }
}

// share is n of all.
func share(n, all int) (float64, bool) {
	if all == 0 {
		return 0, false
	}
	return float64(n) / float64(all), true
}

// free and tips are values of episodes that were sampled without and with tips.
func free(f func(orchestrator.EpisodeStats) float64) func(step) (float64, bool) {
	return func(m step) (float64, bool) { return f(m.Free), m.Free.N > 0 }
}

func tips(f func(orchestrator.EpisodeStats) float64) func(step) (float64, bool) {
	return func(m step) (float64, bool) { return f(m.Tips), m.Tips.N > 0 }
}

// all is the mean over all episodes of a step.
func all(f func(orchestrator.EpisodeStats) float64) func(step) (float64, bool) {
	return func(m step) (float64, bool) {
		n := m.Free.N + m.Tips.N
		if n == 0 {
			return 0, false
		}
		return (float64(m.Free.N)*f(m.Free) + float64(m.Tips.N)*f(m.Tips)) / float64(n), true
	}
}

func returnOf(s orchestrator.EpisodeStats) float64  { return s.Return }
func successOf(s orchestrator.EpisodeStats) float64 { return s.Success }

// episodes counts those of a step, failed and cancelled ones included.
func episodes(m step) int { return m.Free.N + m.Tips.N + m.Failed + m.Cancelled }

// Metrics are those of a training step, in the order in which they are written. The names
// of other programs are those of TRL's GRPOTrainer, of verl's PPO trainer (ray_trainer.py,
// metric_utils.py), and of prime-rl's orchestrator and trainer.
var Metrics = []Metric{
	{Name: "return", Meaning: "mean return of the environment, all episodes",
		TRL: "reward", Verl: "critic/rewards/mean", PrimeRL: "reward/all/mean", of: all(returnOf)},
	{Name: "return/without_tips", Meaning: "the same, episodes sampled without tips", of: free(returnOf)},
	{Name: "return/with_tips", Meaning: "the same, episodes sampled with tips", of: tips(returnOf)},
	{Name: "success/without_tips", Meaning: "share of successful episodes, 0 to 1, without tips", of: free(successOf)},
	{Name: "success/with_tips", Meaning: "the same, with tips", of: tips(successOf)},
	{Name: "bonus", Meaning: "mean intrinsic reward of episodes with tips",
		of: tips(func(s orchestrator.EpisodeStats) float64 { return s.Bonus })},
	{Name: "turns", Meaning: "turns per episode", Verl: "num_turns/mean", PrimeRL: "num_turns/all/mean",
		of: all(func(s orchestrator.EpisodeStats) float64 { return s.Turns })},
	{Name: "tips/shown", Meaning: "tips shown per episode with tips",
		of: tips(func(s orchestrator.EpisodeStats) float64 { return s.TipsShown })},
	{Name: "tips/written", Meaning: "tips written", of: always(func(m step) float64 { return float64(m.NewTips) })},
	{Name: "episodes", Meaning: "training episodes until then, without failed ones", PrimeRL: "progress/total_samples",
		of: always(func(m step) float64 { return float64(m.Episodes) })},
	{Name: "version", Meaning: "version of the policy after the step",
		of: always(func(m step) float64 { return float64(m.Version) })},

	{Name: "replies/cut", Meaning: "share of replies cut at rollout.max_tokens", TRL: "completions/clipped_ratio",
		Verl: "response_length/clip_ratio", PrimeRL: "is_truncated/all/mean",
		of: func(m step) (float64, bool) { return share(m.Replies.Cut, m.Replies.N) }},
	{Name: "replies/empty", Meaning: "share of replies without an action",
		of: func(m step) (float64, bool) { return share(m.Replies.Empty, m.Replies.N) }},
	{Name: "replies/cut_tips", Meaning: "share of tips that are cut",
		of: func(m step) (float64, bool) { return share(m.Replies.CutTips, m.Replies.Tips) }},
	{Name: "replies/no_tips", Meaning: "share of replies to the request for a tip without one",
		of: func(m step) (float64, bool) { return share(m.Replies.NoTips, m.Replies.Tips) }},
	{Name: "episodes/failed", Meaning: "share of episodes that failed",
		of: func(m step) (float64, bool) { return share(m.Failed, episodes(m)) }},
	{Name: "episodes/cancelled", Meaning: "share of episodes that the step did not wait for (rollout.quorum)",
		of: func(m step) (float64, bool) { return share(m.Cancelled, episodes(m)) }},
	{Name: "episodes/context_full", Meaning: "share of episodes that ended with a full context",
		of: func(m step) (float64, bool) { return share(m.Stops[rollout.StopContextFull], episodes(m)) }},
	{Name: "groups/no_gradient", Meaning: "share of groups of equal returns", TRL: "frac_reward_zero_std",
		of: func(m step) (float64, bool) { return share(m.NoGradient, m.Groups) }},

	{Name: "kl", Meaning: "mean KL divergence from the base model, nats", TRL: "kl", Verl: "actor/kl_loss",
		of: trained(func(m step) float64 { return m.KLBase })},
	{Name: "entropy", Meaning: "mean entropy of the policy, nats", TRL: "entropy", Verl: "actor/entropy",
		PrimeRL: "entropy/mean", of: reported("entropy", func(m step) float64 { return m.Entropy })},
	{Name: "grad_norm", Meaning: "norm of the gradient", TRL: "grad_norm", Verl: "actor/grad_norm",
		PrimeRL: "optim/grad_norm", of: reported("grad_norm", func(m step) float64 { return m.GradNorm })},
	{Name: "approx_kl", Meaning: "mean of log π_old − log π, nats", Verl: "actor/ppo_kl",
		of: trained(func(m step) float64 { return m.ApproxKL })},
	{Name: "clip", Meaning: "share of trained tokens whose ratio is clipped", TRL: "clip_ratio/region_mean",
		Verl: "actor/pg_clipfrac", of: trained(func(m step) float64 { return m.ClipShare })},
	{Name: "mask", Meaning: "share of trained tokens that are off-policy and below loss.logprob_floor",
		of: trained(func(m step) float64 { return m.MaskShare })},
	{Name: "ratio/mean", Meaning: "mean importance ratio", of: trained(func(m step) float64 { return m.Ratio })},
	{Name: "ratio/max", Meaning: "largest importance ratio", of: trained(func(m step) float64 { return m.RatioMax })},
	{Name: "mismatch/mean", Meaning: "mean difference of the server's and the trainer's log-probs, nats",
		TRL: "sampling/sampling_logp_difference/mean",
		of:  func(m step) (float64, bool) { return m.Mismatch.Mean, m.Mismatch.Tokens > 0 }},
	{Name: "mismatch/max", Meaning: "largest such difference, nats", TRL: "sampling/sampling_logp_difference/max",
		of: func(m step) (float64, bool) { return m.Mismatch.Max, m.Mismatch.Tokens > 0 }},
	{Name: "canary", Meaning: "largest difference of log-probs in the newest canary, nats",
		of: trained(func(m step) float64 { return m.Canary })},
	{Name: "tokens/trained", Meaning: "tokens trained in the step",
		of: always(func(m step) float64 { return float64(m.Trained) })},
	{Name: "rows", Meaning: "rows trained in the step", of: always(func(m step) float64 { return float64(m.Rows) })},
	{Name: "rows/left_out", Meaning: "rows and episodes that the trainer refused",
		of: always(func(m step) float64 { return float64(m.LeftOut) })},
	{Name: "staleness/mean", Meaning: "mean age of a turn in updates, with rollout.max_staleness",
		of: overlapped(func(m step) float64 { return m.Overlap.Staleness.Mean })},
	{Name: "staleness/max", Meaning: "largest age of a turn in updates, with rollout.max_staleness",
		of: overlapped(func(m step) float64 { return float64(m.Overlap.Staleness.Max) })},
	{Name: "groups/stale", Meaning: "groups dropped because a turn is older than rollout.max_staleness",
		of: overlapped(func(m step) float64 { return float64(m.Overlap.Staleness.Dropped) })},
	{Name: "idle/server", Meaning: "share of the step in which no training episode was sampled",
		of: func(m step) (float64, bool) { server, _, ok := m.Idle(); return server, ok }},
	{Name: "idle/trainer", Meaning: "share of the step in which nothing was trained",
		of: func(m step) (float64, bool) { _, trainer, ok := m.Idle(); return trainer, ok }},
	{Name: "requests/late", Meaning: "requests that were late at a replica and sent to another one too",
		of: always(func(m step) float64 { return float64(m.Late) })},
	{Name: "restarts", Meaning: "restarts of the trainer in the step",
		of: always(func(m step) float64 { return float64(m.Restarts) })},

	{Name: "seconds/step", Meaning: "seconds of the step", TRL: "step_time", Verl: "timing_s/step", PrimeRL: "time/step",
		of: always(func(m step) float64 { return m.Seconds.Total })},
	{Name: "seconds/sample", Meaning: "seconds of sampling and reflection", Verl: "timing_s/gen",
		PrimeRL: "time/generate_completions", of: always(func(m step) float64 { return m.Seconds.Sample })},
	{Name: "seconds/train", Meaning: "seconds of training", Verl: "timing_s/update_actor",
		PrimeRL: "time/forward_backward", of: always(func(m step) float64 { return m.Seconds.Train })},
	{Name: "seconds/publish", Meaning: "seconds of export, load and canary",
		of: always(func(m step) float64 { return m.Seconds.Publish })},
	{Name: "trainer/tokens_per_second", Meaning: "row tokens per second of the passes",
		of: trained(func(m step) float64 { return m.Trainer.TokensPerSecond })},
	{Name: "trainer/memory_bytes", Meaning: "peak memory of the trainer, bytes",
		of: trained(func(m step) float64 { return float64(m.Trainer.PeakMemory) })},
	{Name: "trainer/mfu", Meaning: "model FLOP utilisation, 0 to 1, on a known GPU", Verl: "perf/mfu/actor",
		of: func(m step) (float64, bool) { return m.Trainer.MFU, m.Trainer.MFU > 0 }},
	{Name: "server/memory_bytes", Meaning: "memory of the servers that empo2 started, bytes",
		of: func(m step) (float64, bool) { return float64(m.ServerMemory), m.ServerMemory > 0 }},
}

// overlapped is a value of steps that were sampled while others were trained.
func overlapped(of func(step) float64) func(step) (float64, bool) {
	return func(m step) (float64, bool) { return of(m), m.Overlap != orchestrator.Overlap{} }
}

// Value is a named number.
type Value struct {
	Name   string
	Number float64
}

// ofStep returns the values of a step in a scheme.
func ofStep(m orchestrator.StepMetrics, scheme string) []Value {
	var out []Value
	for _, metric := range Metrics {
		if v, ok := metric.of(m); ok {
			out = append(out, Value{metric.In(scheme), v})
		}
	}
	for _, p := range m.Phases {
		name := Metric{Name: "phases/" + strings.ReplaceAll(p.Name, " ", "_")}.In(scheme)
		if i := slices.IndexFunc(out, func(v Value) bool { return v.Name == name }); i >= 0 {
			out[i].Number += p.Seconds // a phase may come twice
			continue
		}
		out = append(out, Value{name, p.Seconds})
	}
	return out
}

// evaluationMetrics are the numbers of an evaluation. They have one name in all schemes.
var evaluationMetrics = []struct {
	name, meaning string
	of            func(orchestrator.Evaluation) float64
}{
	{"success", "share of successful episodes, 0 to 1", func(e orchestrator.Evaluation) float64 { return e.Success }},
	{"score", "mean score", func(e orchestrator.Evaluation) float64 { return e.Score }},
	{"stderr", "standard error of the mean score", func(e orchestrator.Evaluation) float64 { return e.StdErr }},
	{"episodes", "episodes", func(e orchestrator.Evaluation) float64 { return float64(e.Episodes) }},
	{"failed", "episodes that failed", func(e orchestrator.Evaluation) float64 { return float64(e.Failed) }},
	{"train_episodes", "training episodes until then",
		func(e orchestrator.Evaluation) float64 { return float64(e.TrainEpisodes) }},
	{"train_seconds", "seconds of training until then", func(e orchestrator.Evaluation) float64 { return e.TrainSeconds }},
}

// ofEvaluation returns the values of an evaluation, named eval/… or test/… by its split.
func ofEvaluation(e orchestrator.Evaluation) []Value {
	out := make([]Value, len(evaluationMetrics))
	for i, metric := range evaluationMetrics {
		out[i] = Value{e.Kind + "/" + metric.name, metric.of(e)}
	}
	return out
}

// Table is the table of the metrics that other programs have too, in Markdown.
func Table() string {
	var b strings.Builder
	b.WriteString("| ours | means | TRL | verl | prime-rl |\n|---|---|---|---|---|\n")
	code := func(name string) string {
		if name == "" {
			return ""
		}
		return "`" + name + "`"
	}
	for _, m := range Metrics {
		if m.TRL+m.Verl+m.PrimeRL != "" {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.Name, m.Meaning, code(m.TRL), code(m.Verl), code(m.PrimeRL))
		}
	}
	return b.String()
}
