package page

import (
	"context"
	"encoding/csv"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
)

// serveCSV sends the lines of a run as a table: one row for each point.
func (p *Page) serveCSV(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), answerTimeout, errors.New("the answer took too long"))
	defer cancel()
	answer, err := ofRun(p, func(ctx context.Context, o *openRun, _ *http.Request) (any, error) {
		return o.series(ctx)
	})(ctx, r)
	if err != nil {
		writeError(w, err)
		return
	}
	series, _ := answer.(*seriesAnswer) // there is no other
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="steps.csv"`)
	_ = series.writeCSV(w) // nobody is told if the client has gone
}

// writeCSV writes the table. What is unknown is empty.
func (s *seriesAnswer) writeCSV(to io.Writer) error {
	w := csv.NewWriter(to)
	header := []string{"step", "episodes", "tokens", "seconds"}
	for _, l := range perStep {
		header = append(header, l.name)
	}
	if err := w.Write(header); err != nil {
		return err
	}
	for i, step := range s.X.Step {
		row := []string{strconv.FormatInt(step, 10)}
		for _, x := range []line{s.X.Episodes, s.X.Tokens, s.X.Seconds} {
			row = append(row, field(x[i]))
		}
		for _, l := range perStep {
			row = append(row, field(s.Lines[l.name][i]))
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

func field(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
