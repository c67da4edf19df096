package report

import (
	"encoding/csv"
	"io"
	"strconv"
)

// CSV writes the evaluations of all runs as a table, one a row. Rates are percent.
func (c Comparison) CSV(w io.Writer) error {
	table := csv.NewWriter(w)
	rows := [][]string{{"arm", "run", "training episodes", "trained tokens", "training seconds", "success", "low", "high",
		"episodes evaluated", "score", "training steps"}}
	for _, arm := range c.Arms {
		for _, curve := range c.of(arm) {
			for _, p := range curve.Points {
				rows = append(rows, p.fields(arm, curve.Label))
			}
		}
	}
	return table.WriteAll(rows)
}

// fields are a row of the table. What is unknown is empty.
func (p Point) fields(arm, run string) []string {
	decimal := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	low, high := "", ""
	if i := p.interval(); i.Known() {
		low, high = strconv.FormatFloat(i.Low, 'g', 6, 64), strconv.FormatFloat(i.High, 'g', 6, 64)
	}
	return []string{arm, run, strconv.Itoa(p.Episodes), strconv.Itoa(p.Tokens), decimal(p.Seconds), decimal(p.Success),
		low, high, strconv.Itoa(p.Evaluated), decimal(p.Score),
		strconv.FormatInt(p.Step, 10)}
}
