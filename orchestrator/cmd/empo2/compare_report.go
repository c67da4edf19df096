package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/report"
)

// finish writes compare.json, compare.html, compare.svg, compare.csv and compare.txt and
// prints the table.
func (r *comparer) finish(ctx context.Context, jobs []job) error {
	out := r.describe()
	for _, j := range jobs {
		s, err := r.summary(ctx, j)
		if err != nil {
			return err
		}
		out.Curves = append(out.Curves, curve(j, s))
	}
	files := map[string]func(io.Writer) error{
		"compare.html": out.HTML,
		"compare.svg":  out.SVG,
		"compare.csv":  out.CSV,
		"compare.txt":  out.Table,
		"compare.json": func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", " ")
			return e.Encode(out)
		},
	}
	for name, write := range files {
		if err := writeFile(filepath.Join(r.Out, name), write); err != nil {
			return err
		}
	}
	if r.JSON {
		r.console.json("comparison", out)
		return nil
	}
	var table strings.Builder
	if err := out.Table(&table); err != nil {
		return err
	}
	r.console.print("\n%s\npicture: %s\ndata:    %s", table.String(),
		filepath.Join(r.Out, "compare.html"), filepath.Join(r.Out, "compare.json"))
	return nil
}

// describe returns the report without its curves.
func (r *comparer) describe() report.Comparison {
	all := names(r.arms)
	environments := distinct(r.settings, describeWorld)
	facts := []string{
		strings.Join(distinct(r.settings, describeModel), " "),
		"Environment: " + strings.Join(environments, "; ") + ".",
		fmt.Sprintf("%ss: %s.", strings.ToUpper(job{house: r.houses}.kind()[:1])+job{house: r.houses}.kind()[1:],
			strings.Join(strings.Fields(strings.Trim(fmt.Sprint(r.seeds), "[]")), ", ")),
		"Budget: " + strings.Join(distinct(r.settings, describeBudget), "; ") + ".",
		"Evaluation: " + strings.Join(distinct(r.settings, describeEvaluation), "; ") + ".",
	}
	return report.Comparison{
		Title: fmt.Sprintf("%s: %s", strings.Join(environments, "; "), strings.Join(all, " · ")),
		Facts: facts, Arms: all, Settings: differing(r.settings), Notes: r.notes,
	}
}

// distinct returns the different texts of the configurations, in order.
func distinct(settings []config.Config, text func(config.Config) string) []string {
	var out []string
	for _, c := range settings {
		if s := text(c); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// describeModel names the trained model in the report.
func describeModel(c config.Config) string {
	if c.Model.Path == config.Embedded {
		return "A demonstration with a tiny policy. It shows nothing about large language models."
	}
	return fmt.Sprintf("Model: %s.", filepath.Base(cmp.Or(c.Model.Path, c.Sampler.ServedModelName)))
}

// describeWorld names the environment in the report.
func describeWorld(c config.Config) string {
	if c.Env.Name != "vault" {
		return c.Env.Name
	}
	v := c.Env.Vault
	return fmt.Sprintf("vault, %d doors × %d levers (random actions succeed in %s of the episodes)", v.Doors, v.Levers,
		odds(v.Levers, v.Doors))
}

func describeBudget(c config.Config) string {
	text := fmt.Sprintf("%s of %s with %s", counted(c.Run.Steps, "step"), counted(c.Algorithm.Groups, "group"),
		counted(c.Algorithm.GroupSize, "episode"))
	if c.Run.MaxSeconds > 0 {
		text += fmt.Sprintf(", at most %g s of training", c.Run.MaxSeconds)
	}
	return text
}

func describeEvaluation(c config.Config) string {
	text := fmt.Sprintf("temperature %g, %s at the end", c.Eval.Temperature, counted(c.Eval.FinalEpisodes, "episode"))
	if c.Eval.Every > 0 {
		text += fmt.Sprintf(", %d every %s", c.Eval.Episodes, counted(c.Eval.Every, "step"))
	}
	if c.Algorithm.Name == "adapt" {
		text += " (with tips: nothing is trained)"
	}
	return text
}

// differing returns the keys in which the arms differ.
func differing(settings []config.Config) []report.Setting {
	var out []report.Setting
	values := make([]map[string]string, len(settings))
	for i, c := range settings {
		c.Run.Name = "" // it names the arm
		values[i] = config.Values(c)
	}
	for _, key := range slices.Sorted(maps.Keys(values[0])) {
		s := report.Setting{Key: key}
		for _, v := range values {
			s.Values = append(s.Values, v[key])
		}
		if len(slices.Compact(slices.Clone(s.Values))) > 1 {
			out = append(out, s)
		}
	}
	return out
}

// curve returns the learning curve of one run for the report.
func curve(j job, s orchestrator.Summary) report.Curve {
	out := report.Curve{Arm: j.arm.shown(), TimeBudget: j.arm.after != "", Label: j.label(), Steps: s.Steps}
	tokens := map[int64]int{} // until the end of a step
	sum := 0
	for _, m := range s.History {
		out.Hits += int(float64(m.Free.N)*m.Free.Success + 0.5)
		out.Tips += m.NewTips
		sum += m.Trainer.RowTokens
		tokens[m.Step] = sum
	}
	for _, e := range s.Evaluations {
		p := report.Point{Step: e.Step, Episodes: e.TrainEpisodes, Seconds: e.TrainSeconds, Tokens: tokens[e.Step],
			Success: 100 * e.Success, Evaluated: e.Episodes, Score: e.Score}
		switch e.Kind {
		case string(envs.Test):
			out.Test = &p
		case string(envs.Eval):
			out.Points = append(out.Points, p)
		}
	}
	return out
}

// writeFile replaces a file atomically. What is no file is not replaced.
func writeFile(path string, write func(io.Writer) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("write %s: it is not a file\n  hint: name another place", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w\n  hint: name a file in a folder that exists and is writable",
			path, errors.Unwrap(err))
	}
	defer os.Remove(f.Name()) // after the rename there is nothing to remove
	if err := errors.Join(f.Chmod(0o644), write(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
