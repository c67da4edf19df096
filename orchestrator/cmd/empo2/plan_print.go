package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/forecast"
)

// printForecast prints a plan as a table.
func printForecast(out *console, c config.Config, in forecast.Input, f forecast.Forecast) {
	shown := planner{subject: subject{model: in.Model, machine: in.Machine, backend: c.Sampler.Backend}}
	if f.Model != "" {
		out.print("model    %s: %s", oneLine(filepath.Base(f.Model)), shown.describeModel())
	}
	out.print("machine  %s", shown.describeMachine())
	printStep(out, f)
	printMemory(out, f)
	printTime(out, f)
	d := f.Disk
	line := fmt.Sprintf("disk     %s of episodes a step", size(d.Episodes))
	if d.Adapter > 0 {
		line += fmt.Sprintf(", adapter %s and checkpoint %s (%d of each are kept)", size(d.Adapter), size(d.Checkpoint),
			c.KeptCheckpoints())
	}
	out.print("%s; %s after %s%s", line, size(d.Total), counted(f.Steps, "step"), of(f.FreeDisk, " free"))
	if len(f.Problems) == 0 {
		out.print("fits     yes")
	}
	for _, p := range f.Problems {
		out.print("fits     no: %s\n  hint: %s", p.What, p.Remedy)
	}
}

func printStep(out *console, f forecast.Forecast) {
	line := fmt.Sprintf("step     %s of up to %d tokens", counted(f.Episodes, "episode"), f.LongestRow)
	if m := f.Measured; m != nil {
		line += fmt.Sprintf("; measured: %.1f turns and %.0f tokens in an episode, %.0f tokens of rows in a step",
			m.Turns, m.RowTokens, f.StepTokens)
		if m.Complete < m.Episodes {
			line += fmt.Sprintf(" (%d of %d episodes did not end in the time and count with all turns)",
				m.Episodes-m.Complete, m.Episodes)
		}
	}
	out.print("%s", line)
}

func printMemory(out *console, f forecast.Forecast) {
	if t := f.Trainer; t.Elsewhere != "" {
		out.print("memory   trainer at %s  unknown: it is on another machine; its companion here %s", t.Elsewhere,
			size(t.Program))
	} else if t.Total() > 0 {
		out.print("memory   trainer (%s)  %s: base model %s, torch %s, adapter %s, activations up to %s (a row of %d tokens "+
			"needs %s)", trainerDevice(f),
			size(t.Total()), size(t.Weights), size(t.Program), size(t.Adapter), size(t.Activations),
			f.LongestRow, size(t.LongestRow))
	}
	if s := f.Server; s.Processes > 0 {
		device := "cpu"
		if s.OnGPU {
			device = "gpu"
		}
		out.print("         %s (%s)  %s: weights %s, %d × (cache %s + program %s); cache: %s", s.Name, device,
			size(s.Total()), size(s.Shared), s.Processes, size(max(0, s.Cache)), size(s.Program), s.CacheText)
	}
	out.print("         together  %s of main memory%s", size(f.Needed), of(f.FreeMemory, " free"))
	for _, g := range f.GPUs {
		out.print("         GPU %-5s %s%s: %s", g.Name, size(g.Needed), of(g.Memory, ""), g.Holds())
	}
}

// trainerDevice says where the trainer works.
func trainerDevice(f forecast.Forecast) string {
	if f.Trainer.Ranks <= 1 {
		return f.Device
	}
	how := "data parallel"
	if f.Trainer.Sharded {
		how = "FSDP2"
	}
	return fmt.Sprintf("%s, each of %d ranks, %s", f.Device, f.Trainer.Ranks, how)
}

func printTime(out *console, f forecast.Forecast) {
	t := f.Time
	if t.Step == 0 {
		out.print("time     unknown without a calibration")
		return
	}
	out.print("time     %.1f s a step: sample %.1f, train %.1f, publish %.1f; %s with evaluations %s",
		t.Step, t.Sample, t.Train, t.Publish, counted(f.Steps, "step"), duration(t.Total))
}

// printCheck prints predicted values beside those of a run.
func printCheck(out *console, compared []forecast.Comparison, steps int) {
	out.print("%-22s %12s %12s %8s   (means over %s; memory: largest)",
		"", "predicted", "took", "error", counted(steps, "step"))
	for _, c := range compared {
		out.print("%-22s %12s %12s %+7.0f %%", c.What, value(c.Predicted, c.Unit), value(c.Took, c.Unit), 100*c.Error)
	}
}

// value formats a number by its unit.
func value(v float64, unit string) string {
	switch unit {
	case "bytes":
		return size(int64(v))
	case "s":
		return fmt.Sprintf("%.1f s", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// size is, for example, "1.2 GB" or "38 MB".
func size(n int64) string {
	if n < 1e8 && n > -1e8 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return forecast.GB(n)
}

// of is, for example, " of 24.0 GB free", or empty if the size is unknown.
func of(n int64, word string) string {
	if n == 0 {
		return ""
	}
	return " of " + forecast.GB(n) + word
}

// duration is, for example, "2h 5m".
func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	if d >= time.Hour {
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return d.String()
}
