package page

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/view"
)

// What an exported file holds of each run. A bound on all episodes keeps the file
// readable by a browser.
const (
	exportedRows     = maxRows // of the list of episodes
	exportedEpisodes = 60      // with their conversations: the newest, the best and the worst
	exportedTips     = usualTips
	exportedBytes    = 64 << 20
)

// Export writes the page as one file that needs no server: the numbers of the runs,
// their newest episodes, and their tips.
func (p *Page) Export(ctx context.Context, w io.Writer) error {
	list, err := p.answerRuns(ctx, nil)
	if err != nil {
		return err
	}
	e := exporter{page: p, answers: map[string]json.RawMessage{}}
	if err := e.add("/api/runs", list); err != nil {
		return err
	}
	found, err := p.runs.locate(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, l := range found {
		if err := e.run(ctx, l); err != nil {
			return fmt.Errorf("export %s: %w", l.dir, err)
		}
		names = append(names, encodeComponent(l.name))
	}
	if len(names) > 1 && len(names) <= maxCompared {
		compared, err := p.compare(ctx, found)
		if err != nil {
			return err
		}
		if err := e.add("/api/compare?runs="+strings.Join(names, ","), compared); err != nil {
			return err
		}
	}
	return exportFile(w, assets(), e.answers)
}

// An exporter collects answers by the paths for which the browser asks.
type exporter struct {
	page    *Page
	answers map[string]json.RawMessage
	bytes   int
}

func (e *exporter) add(path string, answer any) error {
	text, err := json.Marshal(answer)
	e.answers[path] = text
	e.bytes += len(text)
	return err
}

// run adds the answers for a run.
func (e *exporter) run(ctx context.Context, l located) error {
	o, done, err := e.page.runs.use(ctx, l.dir)
	if err != nil {
		return nil // the list of runs says why it cannot be read
	}
	defer done()
	base := "/api/runs/" + encodeComponent(l.name) + "/"
	f := ledger.AllOf("")
	f.Details, f.Limit = true, exportedRows
	for path, ask := range map[string]func() (any, error){
		"now":    func() (any, error) { return answerNow(ctx, o, nil) },
		"series": func() (any, error) { return o.series(ctx) },
		"tips":   func() (any, error) { return o.tips(ctx, view.TipQuery{Limit: exportedTips}) },
	} {
		answer, err := ask()
		if err == nil {
			err = e.add(base+path, answer)
		}
		if err != nil {
			return err
		}
	}
	rows, err := o.episodes(ctx, f, "")
	if err != nil {
		return err
	}
	if err := e.add(base+"episodes", rows); err != nil {
		return err
	}
	chosen, err := e.chosen(ctx, o)
	if err != nil {
		return err
	}
	return e.episodes(ctx, o, base, chosen)
}

// chosen returns the episodes that the file has with their conversations.
func (e *exporter) chosen(ctx context.Context, o *openRun) ([]view.Episode, error) {
	var out []view.Episode
	for _, order := range []ledger.Order{ledger.BestFirst, ledger.WorstFirst, ledger.NewestFirst} {
		f := ledger.AllOf("")
		f.Order, f.Limit = order, exportedEpisodes/3
		page, err := o.PageOf(ctx, f, "")
		if err != nil {
			return nil, err
		}
		out = append(out, page.Rows...)
	}
	f := ledger.AllOf("eval")
	f.Limit = exportedEpisodes / 3
	page, err := o.PageOf(ctx, f, "")
	return append(out, page.Rows...), err
}

// episodes adds the conversations of episodes, as long as the file does not become
// too large.
func (e *exporter) episodes(ctx context.Context, o *openRun, base string, chosen []view.Episode) error {
	for _, row := range chosen {
		path := fmt.Sprintf("%sepisode?kind=%s&place=%s", base, encodeComponent(row.Kind),
			encodeComponent(row.Place.String()))
		if e.answers[path] != nil {
			continue
		}
		if e.bytes > exportedBytes {
			return nil
		}
		answer, err := o.episode(ctx, kindOf(row.Kind), row.Place)
		if err == nil {
			err = e.add(path, answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// encodeComponent encodes a text as encodeURIComponent of browsers does.
func encodeComponent(text string) string {
	return strings.NewReplacer("+", "%20", "%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").
		Replace(url.QueryEscape(text))
}
