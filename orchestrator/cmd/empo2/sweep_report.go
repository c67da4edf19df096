package main

import (
	"context"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/report"
)

// report writes sweep.html, .svg, .csv, .txt and .json with the runs that are done. last prints the table.
func (s *sweeper) report(ctx context.Context, last bool) error {
	out, err := s.gather(ctx)
	if err != nil {
		return err
	}
	files := map[string]func(io.Writer) error{"sweep.html": out.HTML, "sweep.svg": out.SVG, "sweep.csv": out.CSV,
		"sweep.txt": out.SweepTable, "sweep.json": out.SweepJSON}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := writeFile(filepath.Join(s.Out, name), files[name]); err != nil {
			return err
		}
	}
	if !last {
		return nil
	}
	if s.JSON {
		s.console.json("sweep", out.SweepData())
		return nil
	}
	var table strings.Builder
	if err := out.SweepTable(&table); err != nil {
		return err
	}
	s.console.print("\n%s\npicture: %s\ndata:    %s", table.String(), filepath.Join(s.Out, "sweep.html"),
		filepath.Join(s.Out, "sweep.json"))
	return nil
}

// gather reads the runs that are done, each once.
func (s *sweeper) gather(ctx context.Context) (report.Comparison, error) {
	out := s.describe()
	out.Sweep = true
	if s.file.Metric == report.MetricScore {
		out.Metric = report.MetricScore
	}
	s.mu.Lock()
	failures := maps.Clone(s.failures)
	s.mu.Unlock()
	for _, j := range s.all() {
		if f, failed := failures[j.name()]; failed {
			out.Failures = append(out.Failures, report.Failure{Arm: j.arm.shown(), Label: j.label(), Error: f.Error,
				Hint: f.Hint})
			continue
		}
		if s.state(j) != runDone {
			continue
		}
		if _, known := s.curves[j.name()]; !known {
			summary, err := s.summary(ctx, j)
			if err != nil {
				return out, err
			}
			s.curves[j.name()] = curve(j, summary)
		}
		out.Curves = append(out.Curves, s.curves[j.name()])
	}
	return out, nil
}
