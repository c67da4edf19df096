package page

import (
	"context"
	"encoding/json"
	"math"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/rollout"
)

// history holds the numbers of the committed steps of a run, which never change. New
// steps are added when they are asked for.
type history struct {
	steps    []int64
	episodes []float64 // so far
	tokens   []float64 // that the trainer has computed so far
	seconds  []float64 // of training so far, without evaluations
	lines    [][]float64
	recent   []orchestrator.StepMetrics // the newest, in order
}

// kept is the number of the newest steps whose metrics are kept.
const kept = 2 * window

// perStep are the lines of a run. NaN: unknown.
var perStep = []struct {
	name string
	of   func(m *orchestrator.StepMetrics) float64
}{
	{"return_without", func(m *orchestrator.StepMetrics) float64 { return of(m.Free.N, m.Free.Return) }},
	{"return_with", func(m *orchestrator.StepMetrics) float64 { return of(m.Tips.N, m.Tips.Return) }},
	{"success_without", func(m *orchestrator.StepMetrics) float64 { return of(m.Free.N, m.Free.Success) }},
	{"success_with", func(m *orchestrator.StepMetrics) float64 { return of(m.Tips.N, m.Tips.Success) }},
	{"tips_shown", func(m *orchestrator.StepMetrics) float64 { return of(m.Tips.N, m.Tips.TipsShown) }},
	{"bonus", func(m *orchestrator.StepMetrics) float64 { return of(m.Tips.N, m.Tips.Bonus) }},
	{"new_tips", func(m *orchestrator.StepMetrics) float64 { return float64(m.NewTips) }},
	{"cut", func(m *orchestrator.StepMetrics) float64 { return share(m.Replies.Cut, m.Replies.N) }},
	{"empty", func(m *orchestrator.StepMetrics) float64 { return share(m.Replies.Empty, m.Replies.N) }},
	{"no_action", func(m *orchestrator.StepMetrics) float64 { return share(m.Replies.NoAction, m.Replies.N) }},
	{"cut_tips", func(m *orchestrator.StepMetrics) float64 { return share(m.Replies.CutTips, m.Replies.Tips) }},
	{"context_full", func(m *orchestrator.StepMetrics) float64 {
		return share(m.Stops[rollout.StopContextFull], ended(m))
	}},
	{"cancelled", func(m *orchestrator.StepMetrics) float64 { return share(m.Cancelled, ended(m)) }},
	{"failed", func(m *orchestrator.StepMetrics) float64 { return share(m.Failed, ended(m)) }},
	{"no_gradient", func(m *orchestrator.StepMetrics) float64 { return share(m.NoGradient, m.Groups) }},
	{"kl", func(m *orchestrator.StepMetrics) float64 { return of(m.Trained, m.KLBase) }},
	{"approx_kl", func(m *orchestrator.StepMetrics) float64 { return of(m.Trained, m.ApproxKL) }},
	{"entropy", func(m *orchestrator.StepMetrics) float64 { return known(m, "entropy", m.Entropy) }},
	{"mismatch", func(m *orchestrator.StepMetrics) float64 { return of(m.Mismatch.Tokens, m.Mismatch.Mean) }},
	{"mismatch_max", func(m *orchestrator.StepMetrics) float64 { return of(m.Mismatch.Tokens, m.Mismatch.Max) }},
	{"masked", func(m *orchestrator.StepMetrics) float64 { return of(m.Trained, m.MaskShare) }},
	{"clipped", func(m *orchestrator.StepMetrics) float64 { return of(m.Trained, m.ClipShare) }},
	{"ratio", func(m *orchestrator.StepMetrics) float64 { return of(m.Trained, m.Ratio) }},
	{"ratio_max", func(m *orchestrator.StepMetrics) float64 { return of(m.Trained, m.RatioMax) }},
	{"grad_norm", func(m *orchestrator.StepMetrics) float64 { return known(m, "grad_norm", m.GradNorm) }},
	{"trained", func(m *orchestrator.StepMetrics) float64 { return float64(m.Trained) }},
	{"row_tokens", func(m *orchestrator.StepMetrics) float64 { return float64(m.Trainer.RowTokens) }},
	{"tokens_per_second", func(m *orchestrator.StepMetrics) float64 {
		return of(m.Trainer.RowTokens, m.Trainer.TokensPerSecond)
	}},
	{"tokens_sampling", func(m *orchestrator.StepMetrics) float64 {
		return of(m.Replies.Tokens, float64(m.Replies.Tokens))
	}},
	{"tokens_reflection", func(m *orchestrator.StepMetrics) float64 {
		return of(m.Replies.TipTokens, float64(m.Replies.TipTokens))
	}},
	{"seconds_sampling", func(m *orchestrator.StepMetrics) float64 {
		return max(0, m.Seconds.Sample-secondsOf(m, watchdog.PhaseReflection))
	}},
	{"seconds_reflection", func(m *orchestrator.StepMetrics) float64 {
		seconds := secondsOf(m, watchdog.PhaseReflection)
		return of(int(math.Ceil(seconds)), seconds)
	}},
	{"seconds_training", func(m *orchestrator.StepMetrics) float64 { return m.Seconds.Train }},
	{"seconds_publishing", func(m *orchestrator.StepMetrics) float64 { return m.Seconds.Publish }},
	{"staleness", overlapped(func(m *orchestrator.StepMetrics) float64 { return m.Overlap.Staleness.Mean })},
	{"staleness_max", overlapped(func(m *orchestrator.StepMetrics) float64 {
		return float64(m.Overlap.Staleness.Max)
	})},
	{"groups_stale", overlapped(func(m *orchestrator.StepMetrics) float64 {
		return float64(m.Overlap.Staleness.Dropped)
	})},
	{"idle_server", func(m *orchestrator.StepMetrics) float64 { server, _ := idle(m); return server }},
	{"idle_trainer", func(m *orchestrator.StepMetrics) float64 { _, trainer := idle(m); return trainer }},
	{"seconds_total", func(m *orchestrator.StepMetrics) float64 { return m.Seconds.Total }},
}

// overlapped is a value of steps that were sampled while others were trained.
func overlapped(value func(m *orchestrator.StepMetrics) float64) func(m *orchestrator.StepMetrics) float64 {
	return func(m *orchestrator.StepMetrics) float64 {
		if m.Overlap == (orchestrator.Overlap{}) {
			return math.NaN()
		}
		return value(m)
	}
}

// idle returns the shares of a step in which server and trainer had nothing to do.
func idle(m *orchestrator.StepMetrics) (server, trainer float64) {
	server, trainer, ok := m.Idle()
	if !ok {
		return math.NaN(), math.NaN()
	}
	return server, trainer
}

// secondsOf is how long a phase of a step took; 0: unknown.
func secondsOf(m *orchestrator.StepMetrics, phase string) (sum float64) {
	for _, p := range m.Phases {
		if p.Name == phase {
			sum += p.Seconds
		}
	}
	return sum
}

// of returns a value of n things, or NaN if there are none.
func of(n int, value float64) float64 {
	if n == 0 {
		return math.NaN()
	}
	return value
}

func share(n, all int) float64 { return of(all, float64(n)/float64(all)) }

// ended counts the episodes of a step.
func ended(m *orchestrator.StepMetrics) (n int) {
	for _, stopped := range m.Stops {
		n += stopped
	}
	return n
}

// historyOf returns the history with all committed steps. The caller holds o.mu.
func (o *openRun) historyOf(ctx context.Context) (*history, error) {
	if o.history == nil {
		o.history = &history{lines: make([][]float64, len(perStep))}
	}
	h := o.history
	last := int64(0)
	if n := len(h.steps); n > 0 {
		last = h.steps[n-1]
	}
	return h, o.StepsAfter(ctx, last, h.add)
}

func (h *history) add(m orchestrator.StepMetrics) {
	tokens, seconds := 0., 0.
	if n := len(h.steps); n > 0 {
		tokens, seconds = h.tokens[n-1], h.seconds[n-1]
	}
	h.steps = append(h.steps, m.Step)
	h.episodes = append(h.episodes, float64(m.Episodes))
	h.tokens = append(h.tokens, tokens+float64(m.Trainer.RowTokens))
	h.seconds = append(h.seconds, seconds+m.Seconds.Total)
	for i, l := range perStep {
		h.lines[i] = append(h.lines[i], l.of(&m))
	}
	h.recent = append(h.recent, m)
	if len(h.recent) > kept {
		h.recent = append(h.recent[:0], h.recent[1:]...)
	}
}

// line is a list of values, of which NaN is null.
type line []float64

// MarshalJSON implements [json.Marshaler].
func (l line) MarshalJSON() ([]byte, error) {
	out := make([]number, len(l))
	for i, v := range l {
		out[i] = number(v)
	}
	return json.Marshal(out)
}

// maxPoints is the largest number of points of a line.
const maxPoints = 2000

// bucket is the number of steps that become one point.
func bucket(n int) int { return max(1, (n+maxPoints-1)/maxPoints) }

// means replaces each bucket of values by the mean of those that are known.
func means(values []float64, size int) line {
	if size == 1 {
		return append(line{}, values...)
	}
	out := make(line, 0, len(values)/size+1)
	for from := 0; from < len(values); from += size {
		sum, n := 0., 0
		for _, v := range values[from:min(from+size, len(values))] {
			if !math.IsNaN(v) {
				sum, n = sum+v, n+1
			}
		}
		out = append(out, of(n, sum/float64(n)))
	}
	return out
}

// lasts replaces each bucket of values by its last one.
func lasts[T any](values []T, size int) []T {
	out := make([]T, 0, len(values)/size+1)
	for from := 0; from < len(values); from += size {
		out = append(out, values[min(from+size, len(values))-1])
	}
	return out
}

// known is a value of a step if its trainer has reported it.
func known(m *orchestrator.StepMetrics, name string, v float64) float64 {
	if !m.Knows(name) {
		return math.NaN()
	}
	return v
}
