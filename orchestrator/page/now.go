package page

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/report"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler/rollout"
)

type nowAnswer struct {
	Overview view.Overview `json:"overview"`
	Live     bool          `json:"live"`
	Doing    string        `json:"doing"`
	Ended    string        `json:"ended"`
	Phase    *phase        `json:"phase"`
	// ETA is the time until the last step, in seconds, as the newest steps took.
	ETA      number     `json:"run_eta_s"`
	Health   []health   `json:"health"`
	Tiles    []tile     `json:"tiles"`
	InFlight []inFlight `json:"inflight"`
	// News changes when the series do: with a step, an evaluation or an event.
	News string `json:"news"`
}

// health is one line about the state of a run.
type health struct {
	Level string `json:"level"` // ok, info, warning or error
	Text  string `json:"text"`
}

// tile is a number with its change and its interval. A unit "%" means that they are
// shares.
type tile struct {
	Key    string `json:"key"`
	Label  string `json:"label"`
	Unit   string `json:"unit"`
	Value  number `json:"value"`
	Change number `json:"change"` // since the same number of steps, or the evaluation, before
	Low    number `json:"low"`    // 95 %
	High   number `json:"high"`
	N      int    `json:"n"`
}

// window is the number of steps that a tile covers.
const window = 5

func answerNow(ctx context.Context, o *openRun, _ *http.Request) (any, error) {
	going, err := o.Unfinished(ctx)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	overview, err := o.overview(ctx)
	if err != nil {
		return nil, err
	}
	h, err := o.historyOf(ctx)
	if err != nil {
		return nil, err
	}
	steps, err := o.plannedSteps(ctx)
	if err != nil {
		return nil, err
	}
	s := readStatus(o.Dir)
	out := nowAnswer{Overview: overview, Live: s.live(time.Now()), Doing: s.Doing, Ended: s.Ended, ETA: unknown,
		InFlight: s.InFlight, Tiles: tilesOf(h.recent, o.evaluated.all), News: o.evaluated.newest}
	out.Health = healthOf(h.recent, s, out.Live)
	if !out.Live {
		out.InFlight = nil
	}
	if out.InFlight == nil {
		out.InFlight = []inFlight{}
	}
	if out.Live {
		out.Phase = phaseOf(s, going, steps)
		out.ETA = runETA(h.recent, overview.Steps, steps)
	}
	return out, nil
}

// plannedSteps is run.steps of the run's configuration; 0: unknown. The caller holds
// o.mu.
func (o *openRun) plannedSteps(ctx context.Context) (int64, error) {
	text, err := o.Config(ctx)
	if err != nil || text == o.config {
		return o.planned, err
	}
	o.config, o.planned = text, 0
	if c, err := config.Parse(text, "run.db"); err == nil { // an earlier version may have written another one
		o.planned = int64(c.Run.Steps)
	}
	return o.planned, nil
}

// phaseOf returns the phase that the run has written, or what its database says.
func phaseOf(s status, going *view.Unfinished, steps int64) *phase {
	if s.Phase != nil || going == nil {
		return s.Phase
	}
	return &phase{Name: s.Doing, Step: going.Step, Of: steps, Done: going.Episodes, Total: going.Planned,
		Unit: "episodes", Since: s.Started}
}

// runETA returns the time until the last step.
func runETA(recent []orchestrator.StepMetrics, done, steps int64) number {
	if len(recent) == 0 || steps <= done {
		return unknown
	}
	sum := 0.
	for _, m := range recent {
		sum += m.Seconds.Total
	}
	return number(sum / float64(len(recent)) * float64(steps-done))
}

// healthOf says what is wrong.
func healthOf(recent []orchestrator.StepMetrics, s status, live bool) []health {
	out := []health{}
	add := func(bad bool, level, format string, args ...any) {
		if bad {
			out = append(out, health{level, shorten(fmt.Sprintf(format, args...), maxEventText)})
		}
	}
	add(s.PID > 0 && !live && s.Ended == "", "error",
		"no news since %s: the process was killed, is stopped or hangs", s.Updated.Format(time.TimeOnly))
	asked := strings.HasPrefix(s.Ended, "interrupted (")
	add(asked, "info", "the run has ended: %s", s.Ended)
	add(s.Ended != "" && s.Ended != "done" && !asked, "error", "the run has ended: %s", s.Ended)
	if n := len(recent); n > 0 {
		m := recent[n-1]
		for _, text := range m.Warnings() {
			add(true, "warning", "%s", text)
		}
		dropped := m.Overlap.Staleness.Dropped
		add(dropped > 0, "warning", "%d groups of the last step are too old to train on (rollout.max_staleness)", dropped)
		add(m.Groups > 0 && m.NoGradient == m.Groups, "warning", "no group of the last step has a gradient")
		for _, sign := range m.Diverging {
			add(true, "error", "the training may diverge: %s", sign)
		}
	}
	add(len(out) == 0, "ok", "nothing is wrong")
	return out
}

// tilesOf returns the tiles: of the newest evaluations and of the newest steps.
func tilesOf(recent []orchestrator.StepMetrics, evaluations []orchestrator.Evaluation) []tile {
	now := recent[max(0, len(recent)-window):]
	before := recent[max(0, len(recent)-2*window):max(0, len(recent)-window)]
	shares := []struct {
		key, label string
		of         func(m *orchestrator.StepMetrics) (hits, n int)
	}{
		{"success_with", "success with tips, training", func(m *orchestrator.StepMetrics) (int, int) {
			return hits(m.Tips.Success, m.Tips.N), m.Tips.N
		}},
		{"cut", "replies cut", func(m *orchestrator.StepMetrics) (int, int) { return m.Replies.Cut, m.Replies.N }},
		{"no_gradient", "groups without gradient", func(m *orchestrator.StepMetrics) (int, int) {
			return m.NoGradient, m.Groups
		}},
		{"empty", "replies empty", func(m *orchestrator.StepMetrics) (int, int) { return m.Replies.Empty, m.Replies.N }},
		{"no_action", "replies without a valid action", func(m *orchestrator.StepMetrics) (int, int) {
			return m.Replies.NoAction, m.Replies.N
		}},
		{"cut_tips", "tips cut", func(m *orchestrator.StepMetrics) (int, int) { return m.Replies.CutTips, m.Replies.Tips }},
		{"context_full", "context full", func(m *orchestrator.StepMetrics) (int, int) {
			return m.Stops[rollout.StopContextFull], ended(m)
		}},
		{"cancelled", "episodes cancelled", func(m *orchestrator.StepMetrics) (int, int) { return m.Cancelled, ended(m) }},
		{"failed", "episodes failed", func(m *orchestrator.StepMetrics) (int, int) { return m.Failed, ended(m) }},
	}
	out := []tile{successTile(now, before, evaluations)}
	const always = 3 // the others have a tile if they are above 0
	for i, s := range shares {
		hit, n := sumOf(now, s.of)
		if hit == 0 && i >= always {
			continue
		}
		t := rateTile(s.key, s.label, hit, n)
		if hit, n := sumOf(before, s.of); n > 0 {
			t.Change = t.Value - number(share(hit, n))
		}
		out = append(out, t)
	}
	return out
}

func sumOf(steps []orchestrator.StepMetrics, of func(m *orchestrator.StepMetrics) (hits, n int)) (hits, n int) {
	for i := range steps {
		h, all := of(&steps[i])
		hits, n = hits+h, n+all
	}
	return hits, n
}

func rateTile(key, label string, hits, n int) tile {
	t := tile{Key: key, Label: label, Unit: "%", Value: number(share(hits, n)), Change: unknown, N: n, Low: unknown,
		High: unknown}
	if n > 0 {
		low, high := report.Wilson95(hits, n)
		t.Low, t.High = number(low), number(high)
	}
	return t
}

// successTile is the success without tips of the newest evaluation, or of training if
// there is none.
func successTile(now, before []orchestrator.StepMetrics, evaluations []orchestrator.Evaluation) tile {
	const key = "success_without"
	t, known := tile{}, math.NaN()
	for _, e := range evaluations {
		if e.Tips || e.Kind != "eval" {
			continue
		}
		last := known
		t, known = rateTile(key, "success without tips, evaluation", hits(e.Success, e.Episodes), e.Episodes), e.Success
		if t.Change = unknown; !math.IsNaN(last) && t.N > 0 {
			t.Change = number(e.Success - last)
		}
	}
	if t.Key != "" {
		return t
	}
	free := func(m *orchestrator.StepMetrics) (int, int) { return hits(m.Free.Success, m.Free.N), m.Free.N }
	hit, n := sumOf(now, free)
	t = rateTile(key, "success without tips, training", hit, n)
	if hit, n := sumOf(before, free); n > 0 {
		t.Change = t.Value - number(share(hit, n))
	}
	return t
}
