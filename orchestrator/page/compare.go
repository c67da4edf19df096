package page

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/report"
)

type compareAnswer struct {
	Runs    []comparedRun `json:"runs"`
	Paired  []paired      `json:"paired"`
	Config  []setting     `json:"config"`
	Prompts []promptDiff  `json:"prompts"`
}

type comparedRun struct {
	Name        string       `json:"name"`
	X           axes         `json:"x"`
	Evaluations []evaluation `json:"evaluations"`
}

// paired is the difference of the success of two runs: of b less that of a.
type paired struct {
	Task       string   `json:"task"` // empty: all tasks
	A          string   `json:"a"`
	B          string   `json:"b"`
	AStep      int64    `json:"a_step"` // of the evaluation
	BStep      int64    `json:"b_step"`
	Difference float64  `json:"difference"`
	Low        *float64 `json:"low"` // 95 %; null: there are too few pairs
	High       *float64 `json:"high"`
	N          int      `json:"n"` // pairs of episodes
}

// setting is a key of the configuration that differs.
type setting struct {
	Key    string             `json:"key"`
	Values map[string]*string `json:"values"` // by run; null: the run has no such key
}

// promptDiff says how the newest prompt template of a run differs from that of the
// first run.
type promptDiff struct {
	Name string `json:"name"`
	Diff string `json:"diff"`
}

const (
	maxCompared = 20
	maxPaired   = 400 // rows of the table of tasks
	maxDiff     = 64 << 10
)

func (p *Page) answerCompare(ctx context.Context, r *http.Request) (any, error) {
	names, err := namesOf(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	var chosen []located
	for _, name := range names {
		dir, err := p.runs.dirOf(ctx, name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, located{name, dir})
	}
	return p.compare(ctx, chosen)
}

// namesOf reads the names of runs, which are separated by commas. A comma in a name is
// encoded.
func namesOf(query string) ([]string, error) {
	var names []string
	for part := range strings.SplitSeq(query, "&") {
		list, ok := strings.CutPrefix(part, "runs=")
		if !ok {
			continue
		}
		for one := range strings.SplitSeq(list, ",") {
			name, err := url.QueryUnescape(one)
			if err != nil {
				return nil, badRequest("runs: %v", err)
			}
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 || len(names) > maxCompared {
		return nil, badRequest("runs: name 1 to %d runs, separated by commas", maxCompared)
	}
	return names, nil
}

// side is what is compared of one run.
type side struct {
	name    string
	values  map[string]string // of the configuration, by key
	prompt  string
	step    int64               // of the newest evaluation; -1: there is none
	results map[pairKey]float64 // its success
}

// pairKey names an episode of an evaluation. Equal ones of two runs have the same task
// and the same seed.
type pairKey struct {
	task    string
	episode int
}

func (p *Page) compare(ctx context.Context, chosen []located) (*compareAnswer, error) {
	out := compareAnswer{Runs: []comparedRun{}, Paired: []paired{}, Prompts: []promptDiff{}}
	var sides []side
	for _, l := range chosen {
		run, s, err := p.comparedOf(ctx, l)
		if err != nil {
			return nil, err
		}
		out.Runs, sides = append(out.Runs, run), append(sides, s)
	}
	out.Config = settingsOf(sides)
	for _, s := range sides[1:] {
		out.Paired = append(out.Paired, pairs(sides[0], s)...)
		if d := diff.Diff(sides[0].name, []byte(sides[0].prompt), s.name, []byte(s.prompt)); len(d) > 0 {
			out.Prompts = append(out.Prompts, promptDiff{s.name, shorten(string(d), maxDiff)})
		}
	}
	out.Paired = out.Paired[:min(len(out.Paired), maxPaired)]
	return &out, nil
}

// comparedOf reads what is compared of a run.
func (p *Page) comparedOf(ctx context.Context, l located) (run comparedRun, s side, err error) {
	o, done, err := p.runs.use(ctx, l.dir)
	if err != nil {
		return run, s, err
	}
	defer done()
	series, err := o.series(ctx)
	if err != nil {
		return run, s, err
	}
	run = comparedRun{l.name, series.X, series.Evaluations}
	s = side{name: l.name}
	text, err := o.Config(ctx)
	if err != nil {
		return run, s, err
	}
	if c, err := config.Parse(text, l.name); err == nil { // an earlier version may have written another one
		s.values = config.Values(c)
	}
	if s.prompt, err = o.Prompt(ctx); err != nil {
		return run, s, err
	}
	s.step, s.results, err = o.newestResults(ctx)
	return run, s, err
}

// newestResults returns the step of the newest evaluation and the success of its episodes.
func (o *openRun) newestResults(ctx context.Context) (int64, map[pairKey]float64, error) {
	evaluations, err := o.Evaluations(ctx)
	if err != nil {
		return -1, nil, err
	}
	f, step := ledger.AllOf("eval"), int64(-1)
	for _, e := range evaluations {
		if e.Kind == f.Kind && !e.Tips {
			step = e.Step
		}
	}
	out := map[pairKey]float64{}
	if step < 0 {
		return step, out, nil
	}
	f.Step, f.Limit = step, maxRowsPaired
	page, err := o.PageOf(ctx, f, "")
	for _, e := range page.Rows {
		v := 0.
		if e.Success {
			v = 1
		}
		out[pairKey{e.Task, e.Place.Episode}] = v
	}
	return step, out, err
}

// maxRowsPaired bounds the episodes of an evaluation that are paired.
const maxRowsPaired = 20_000

// pairs compares two runs on the tasks that both have evaluated: on all of them, and
// on each.
func pairs(a, b side) []paired {
	byTask := map[string][]report.Pair{}
	for key, v := range b.results {
		if before, ok := a.results[key]; ok {
			byTask[key.task] = append(byTask[key.task], report.Pair{A: before, B: v})
		}
	}
	if len(byTask) == 0 {
		return nil
	}
	var all []report.Pair
	out := []paired{{}}
	for i, task := range slices.Sorted(maps.Keys(byTask)) {
		for _, p := range byTask[task] {
			p.Task = i
			all = append(all, p)
		}
		out = append(out, pairedOf(shorten(task, maxName), a, b, byTask[task]))
	}
	out[0] = pairedOf("", a, b, all)
	return out
}

func pairedOf(task string, a, b side, of []report.Pair) paired {
	d := report.Paired95(of)
	return paired{Task: task, A: a.name, B: b.name, AStep: a.step, BStep: b.step, Difference: d.Mean, Low: d.Low,
		High: d.High, N: d.N}
}

// settingsOf returns the keys whose values differ between the runs.
func settingsOf(sides []side) []setting {
	out := []setting{}
	keys := map[string]bool{}
	for _, s := range sides {
		for key := range s.values {
			keys[key] = true
		}
	}
	for _, key := range []string{"run.name", "run.dir"} { // the page names the runs
		delete(keys, key)
	}
	for key := range keys {
		values, differs := map[string]*string{}, false
		first, known := sides[0].values[key]
		for _, s := range sides {
			v, has := s.values[key]
			differs = differs || has != known || v != first
			if values[s.name] = nil; has {
				values[s.name] = &v
			}
		}
		if differs {
			out = append(out, setting{key, values})
		}
	}
	slices.SortFunc(out, func(a, b setting) int { return cmp.Compare(a.Key, b.Key) })
	return out
}
