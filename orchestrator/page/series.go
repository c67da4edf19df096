package page

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"math"
	"net/http"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/report"
)

// axes are what the points of lines can be drawn over.
type axes struct {
	Step     []int64 `json:"step"`
	Episodes line    `json:"episodes"`
	Tokens   line    `json:"tokens"`
	Seconds  line    `json:"seconds"`
}

type seriesAnswer struct {
	X           axes            `json:"x"`
	Bucket      int             `json:"bucket"` // steps that became one point
	Evaluations []evaluation    `json:"evaluations"`
	Lines       map[string]line `json:"lines"`
	Events      []event         `json:"events"`
}

// evaluation is an evaluation as it is drawn. Rates are shares.
type evaluation struct {
	Step     int64   `json:"step"`
	Split    string  `json:"split"`
	WithTips bool    `json:"with_tips"`
	Rate     float64 `json:"rate"`
	Low      float64 `json:"low"`  // 95 %
	High     float64 `json:"high"` // 95 %
	N        int     `json:"n"`
	Mean     float64 `json:"mean"`     // score
	Episodes int     `json:"episodes"` // training episodes until then
	Seconds  float64 `json:"seconds"`  // of training until then
}

func evaluationsOf(all []orchestrator.Evaluation) []evaluation {
	out := make([]evaluation, len(all))
	for i, e := range all {
		low, high := report.Wilson95(hits(e.Success, e.Episodes), e.Episodes)
		out[i] = evaluation{Step: e.Step, Split: e.Kind, WithTips: e.Tips, Rate: e.Success, Low: low, High: high,
			N: e.Episodes, Mean: e.Score, Episodes: e.TrainEpisodes, Seconds: e.TrainSeconds}
	}
	return lasts(out, bucket(len(out)))
}

// evaluating is how long the evaluations after each step took; NaN: there were none.
func evaluating(steps []int64, all []orchestrator.Evaluation) []float64 {
	took := map[int64]float64{}
	for _, e := range all {
		took[e.Step] += e.Seconds
	}
	out := make([]float64, len(steps))
	for i, step := range steps {
		if seconds, known := took[step]; known {
			out[i] = seconds
		} else {
			out[i] = math.NaN()
		}
	}
	return out
}

// hits is the number that a share of n is.
func hits(share float64, n int) int { return int(math.Round(share * float64(n))) }

// event is an event on the strip.
type event struct {
	At   string `json:"at"`
	Step int64  `json:"step"`
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// eventKinds are the kinds that have a mark of their own. Others are warnings.
var eventKinds = map[string]string{
	"prompt": "prompt", "configuration changed": "config", "mismatch": "mismatch", "trainer restart": "restart",
	"server restart": "restart", "continued": "restart", "replica returned": "restart", "returned": "restart",
	"environment": "environment", "memory": "memory", "forked": "fork",
}

const (
	maxEvents    = 500
	maxEventText = 2000
)

func eventsOf(all []ledger.Event) []event {
	out := make([]event, len(all))
	for i, e := range all {
		kind, known := eventKinds[e.Kind]
		if !known {
			kind = "warning"
		}
		text := e.Kind
		if kind == "prompt" {
			e.Detail = shortSum(e.Detail)
		}
		if e.Detail != "" {
			text += ": " + e.Detail
		}
		out[i] = event{At: e.At, Step: e.Step, Kind: kind, Text: shorten(text, maxEventText)}
	}
	return out
}

// sumShown is the number of characters of a checksum that readers see.
const sumShown = 8

// shortSum shortens the checksum at the end of a prompt event, after the name of the
// template.
func shortSum(detail string) string {
	name, sum := "", detail
	if i := strings.LastIndexByte(detail, ' '); i >= 0 {
		name, sum = detail[:i+1], detail[i+1:]
	}
	if _, err := hex.DecodeString(sum); err != nil || len(sum) <= sumShown {
		return detail
	}
	return cmp.Or(name, "template ") + sum[:sumShown]
}

// answerSeries returns the series as JSON. It is made again when the run has a new
// step, evaluation or event.
func answerSeries(ctx context.Context, o *openRun, _ *http.Request) (any, error) {
	newest, err := o.Newest(ctx)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	text, known := o.encoded.text, o.encoded.newest == newest
	o.mu.Unlock()
	if known {
		return text, nil
	}
	series, err := o.series(ctx)
	if err != nil {
		return nil, err
	}
	if text, err = json.Marshal(series); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.encoded.newest, o.encoded.text = newest, text
	return text, nil
}

func (o *openRun) series(ctx context.Context) (*seriesAnswer, error) {
	events, err := o.Events(ctx, maxEvents)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	evaluations, err := o.evaluations(ctx)
	if err != nil {
		return nil, err
	}
	h, err := o.historyOf(ctx)
	if err != nil {
		return nil, err
	}
	size := bucket(len(h.steps))
	out := seriesAnswer{
		X:      axes{lasts(h.steps, size), lasts(h.episodes, size), lasts(h.tokens, size), lasts(h.seconds, size)},
		Bucket: size, Evaluations: evaluationsOf(evaluations), Lines: map[string]line{}, Events: eventsOf(events),
	}
	for i, l := range perStep {
		out.Lines[l.name] = means(h.lines[i], size)
	}
	out.Lines["seconds_evaluation"] = means(evaluating(h.steps, evaluations), size)
	return &out, nil
}
