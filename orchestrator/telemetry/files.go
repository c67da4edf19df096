package telemetry

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"strconv"
	"time"
)

// CSV writes a row per step: run, step, timestamp, and a column per metric. A value that a
// step does not have is empty.
func CSV(w io.Writer, runs []Run) error {
	columns := columns(runs)
	out := csv.NewWriter(w)
	if err := out.Write(append([]string{"run", "step", "timestamp"}, columns...)); err != nil {
		return err
	}
	for _, r := range runs {
		for _, p := range r.rows() {
			values := p.values()
			row := []string{r.Name, strconv.FormatInt(p.Step, 10), stamp(p.At)}
			for _, name := range columns {
				text := ""
				if v, ok := values[name]; ok {
					text = strconv.FormatFloat(v, 'g', -1, 64)
				}
				row = append(row, text)
			}
			if err := out.Write(row); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}

// columns are the names of the values of all runs.
func columns(runs []Run) []string {
	var together Run
	for _, r := range runs {
		together.Points = append(together.Points, r.Points...)
	}
	return together.names()
}

func (p Point) values() map[string]float64 {
	out := make(map[string]float64, len(p.Values))
	for _, v := range p.Values {
		out[v.Name] = v.Number
	}
	return out
}

func stamp(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339Nano)
}

// JSONLines writes one object per step.
func JSONLines(w io.Writer, runs []Run) error {
	e := json.NewEncoder(w)
	for _, r := range runs {
		for _, p := range r.rows() {
			line := struct {
				Run       string             `json:"run"`
				Step      int64              `json:"step"`
				Timestamp string             `json:"timestamp"`
				Metrics   map[string]float64 `json:"metrics"`
			}{r.Name, p.Step, stamp(p.At), p.values()}
			if err := e.Encode(line); err != nil {
				return err
			}
		}
	}
	return nil
}
