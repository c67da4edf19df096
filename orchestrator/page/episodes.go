package page

import (
	"context"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"unicode/utf8"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler/rollout"
)

// row is an episode in a list.
type row struct {
	Place     string `json:"place"`
	Kind      string `json:"kind"`
	Task      string `json:"task"`
	Mode      string `json:"mode"`
	Version   int    `json:"version"`
	Return    number `json:"return"`
	Advantage number `json:"advantage"`
	Turns     int    `json:"turns"`
	Cut       int    `json:"cut"`
	Empty     int    `json:"empty"`
	TipsShown int    `json:"tips_shown"`
	Success   bool   `json:"success"`
	Stop      string `json:"stop"`
	Error     string `json:"error"`
	At        string `json:"at"`
}

func rowOf(e view.Episode) row {
	r := row{Place: e.Place.String(), Kind: e.Kind, Task: shorten(e.Task, maxName), Mode: e.Mode, Version: e.Version,
		Return: number(e.Return), Advantage: unknown, Turns: e.Turns, Cut: e.Cut, Empty: e.Empty, TipsShown: e.TipsShown,
		Success: e.Success, Stop: e.Stop, Error: shorten(e.Error, maxEventText), At: e.At}
	if e.Estimate != nil {
		r.Advantage = number(e.Estimate.Advantage)
	}
	return r
}

type episodesAnswer struct {
	Rows []row `json:"rows"`
	// Next continues the list; empty: it is complete.
	Next string `json:"next"`
	// Total counts the episodes that the filters select, apart from that of the text.
	Total int `json:"total"`
	// Searched counts the episodes whose texts were searched for this answer; 0: text is
	// empty.
	Searched int      `json:"searched"`
	Tasks    []string `json:"tasks"`
	Modes    []string `json:"modes"`
}

const (
	usualRows = 100
	maxRows   = 500
	maxTasks  = 1000
	maxName   = 300
	maxSearch = 200 // characters of a text that is searched for
)

func answerEpisodes(ctx context.Context, o *openRun, r *http.Request) (any, error) {
	f, err := filterOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	return o.episodes(ctx, f, r.URL.Query().Get("text"))
}

func (o *openRun) episodes(ctx context.Context, f ledger.Filter, text string) (*episodesAnswer, error) {
	page, err := o.PageOf(ctx, f, text)
	if err != nil {
		return nil, err
	}
	out := episodesAnswer{Rows: make([]row, len(page.Rows)), Searched: page.Searched}
	for i, e := range page.Rows {
		if e.Stop == string(rollout.StopFailed) { // the list does not have the error
			if whole, err := o.At(ctx, f.Kind, e.Place); err == nil {
				e.Error = whole.Error
			}
		}
		out.Rows[i] = rowOf(e)
	}
	if page.Next != nil {
		out.Next = page.Next.String()
	}
	if out.Total, err = o.Count(ctx, f); err != nil {
		return nil, err
	}
	out.Tasks, out.Modes, err = o.names(ctx, f.Kind)
	return &out, err
}

// names returns the tasks and the modes of a kind's episodes. They are read again
// when a step was committed since.
func (o *openRun) names(ctx context.Context, kind string) (tasks, modes []string, err error) {
	last, _, err := o.Last(ctx)
	if err != nil {
		return nil, nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := o.named[kind]; n.tasks != nil && n.step == last {
		return n.tasks, n.modes, nil
	}
	tasks, modes, err = o.Names(ctx, kind, maxTasks)
	if err != nil {
		return nil, nil, err
	}
	for i := range tasks {
		tasks[i] = shorten(tasks[i], maxName)
	}
	if len(tasks) > 0 && len(o.named) < maxKinds { // an address may name any kind
		o.named[kind] = named{last, tasks, modes}
	}
	return tasks, modes, nil
}

// named are the tasks and the modes of a kind's episodes until a step.
type named struct {
	step         int64
	tasks, modes []string
}

// maxKinds is the number of kinds whose names are kept.
const maxKinds = 8

// filterOf reads the filters of an address.
func filterOf(q url.Values) (ledger.Filter, error) {
	f := ledger.AllOf(kindOf(q.Get("kind")))
	f.Details, f.Limit, f.Task, f.Mode = true, usualRows, q.Get("task"), q.Get("mode")
	in, err := view.ParsePlace(q.Get("step"))
	if err != nil {
		return f, badRequest("step: %v", err)
	}
	f.Step, f.Group, f.Episode = in.Step, in.Group, in.Episode
	if n := q.Get("limit"); n != "" {
		if f.Limit, err = strconv.Atoi(n); err != nil || f.Limit < 1 || f.Limit > maxRows {
			return f, badRequest("limit: %s is not a number of 1 to %d", quoted(n), maxRows)
		}
	}
	if n := q.Get("version"); n != "" {
		if f.Version, err = strconv.Atoi(n); err != nil || f.Version < 0 {
			return f, badRequest("version: %s is not a number", quoted(n))
		}
	}
	if err := setOutcome(&f, q.Get("outcome"), q.Get("finish")); err != nil {
		return f, err
	}
	if text := q.Get("text"); utf8.RuneCountInString(text) > maxSearch {
		return f, badRequest("text: it has more than %d characters", maxSearch)
	}
	if id := q.Get("tip"); id != "" {
		if f.Tip, err = tipKey(id); err != nil {
			return f, err
		}
	}
	if cursor := q.Get("cursor"); cursor != "" {
		p, err := view.ParsePlace(cursor)
		if err != nil || !p.One() {
			return f, badRequest("cursor: %s is no place of an episode", quoted(cursor))
		}
		f.After = &ledger.Episode{Step: p.Step, Group: p.Group, Episode: p.Episode}
	}
	return f, nil
}

// kindOf is the stored kind for the one in an address.
func kindOf(kind string) string {
	if kind == "training" {
		return ""
	}
	return kind
}

func setOutcome(f *ledger.Filter, outcome, finish string) error {
	switch outcome {
	case "":
	case "success", "failure":
		success := outcome == "success"
		f.Success = &success
	default:
		return badRequest("outcome: %s is neither success nor failure", quoted(outcome))
	}
	switch finish {
	case "":
	case "cut":
		f.Cut = true
	case "empty":
		f.Empty = true
	case "tips":
		f.WithTips = true
	case "full":
		f.Stop = string(rollout.StopContextFull)
	default:
		f.Stop = finish
	}
	return nil
}

// tipKey reads the id of a tip.
func tipKey(id string) (*ledger.TipKey, error) {
	var k ledger.TipKey
	text, err := hex.DecodeString(id)
	if err != nil || len(text) != len(k) {
		return nil, badRequest("tip: %s is no id of a tip", quoted(id))
	}
	copy(k[:], text)
	return &k, nil
}

// shorten cuts a text to a number of bytes, at a character.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "…"
}
