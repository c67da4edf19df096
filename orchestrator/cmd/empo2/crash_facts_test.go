package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// facts are what two runs with one seed have in common: steps, plans, episodes
// with token ids and tips, versions, evaluations and the tips in memory.
type facts map[string]string

// samplerVersion matches what says in a plan or a tip which version has sampled.
var samplerVersion = regexp.MustCompile(`"version":\d+`)

// withoutSamplers removes from plans and tips the versions that have sampled. If steps
// are sampled ahead, these depend on when the step before was trained.
func (f facts) withoutSamplers() facts {
	out := facts{}
	for name, text := range f {
		switch {
		case strings.HasPrefix(name, "plan "), strings.HasPrefix(name, "tip "):
			text = samplerVersion.ReplaceAllString(text, `"version":-`)
		case strings.HasPrefix(name, "versions "):
			continue
		}
		out[name] = text
	}
	return out
}

// factsOf reads the facts of a run that has ended.
func factsOf(t *testing.T, name string) facts {
	t.Helper()
	out := facts{}
	ctx := context.Background()
	err := ledger.View(ctx, filepath.Join("runs", name), func(l *ledger.Ledger) error {
		steps, err := l.Steps(ctx)
		if err != nil {
			return err
		}
		for i, s := range steps {
			out[fmt.Sprintf("step %d", i+1)] = fmt.Sprint(s.Step, s.Version)
			if err := out.addStep(ctx, l, s.Step); err != nil {
				return err
			}
		}
		evaluations, err := l.Evaluations(ctx)
		if err != nil {
			return err
		}
		for i, text := range evaluations {
			var e orchestrator.Evaluation
			if err := json.Unmarshal(text, &e); err != nil {
				return err
			}
			out[fmt.Sprintf("evaluation %d", i)] = fmt.Sprint(e.Step, e.Kind, e.Version, e.Episodes, e.Success, e.Score)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	var tips, problems bytes.Buffer
	args := []string{"memory", "export", "--profile", "demo", "--set", "run.name=" + name}
	if code := execute(ctx, args, &tips, &problems); code != 0 {
		t.Fatalf("empo2 memory export: exit code %d\n%s", code, problems.String())
	}
	for i, line := range strings.Split(tips.String(), "\n") {
		out[fmt.Sprintf("tip %d in memory", i)] = line
	}
	return out
}

// addStep adds plan and episodes of a step.
func (f facts) addStep(ctx context.Context, l *ledger.Ledger, step int64) error {
	plan, err := l.Plan(ctx, step)
	if err != nil {
		return err
	}
	f[fmt.Sprintf("plan of step %d", step)] = string(plan)
	episodes, err := l.Episodes(ctx, step)
	if err != nil {
		return err
	}
	for _, e := range episodes {
		t, err := orchestrator.EpisodeOf(e)
		if err != nil {
			return err
		}
		said := []any{e.Task, e.Mode, e.Stop, e.EnvReturn, e.Score, e.Success, t.Tip, t.TipIDs}
		for _, turn := range t.Turns {
			said = append(said, turn.IDs, turn.Tips, turn.Reward)
		}
		f[fmt.Sprintf("episode %d/%d/%d", e.Step, e.Group, e.Episode)] = fmt.Sprint(said...)
		f[fmt.Sprintf("versions of episode %d/%d/%d", e.Step, e.Group, e.Episode)] = fmt.Sprint(e.Version, t.TipVersion)
	}
	return nil
}

// differences lists the first facts that differ.
func (f facts) differences(other facts) string {
	names := map[string]bool{}
	for _, side := range []facts{f, other} {
		for name := range side {
			names[name] = true
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a, b := f[name], other[name]; a != b && len(out) < 3 {
			out = append(out, fmt.Sprintf("%s:\n  %s\n  %s", name, a, b))
		}
	}
	return strings.Join(out, "\n")
}

func TestDifferencesOfFacts(t *testing.T) {
	f := func(a, b facts, want string) {
		t.Helper()
		if got := a.differences(b); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(facts{"a": "1"}, facts{"a": "1"}, "")
	f(facts{"a": "1", "b": "2"}, facts{"a": "1", "b": "3"}, "b:\n  2\n  3")
	f(facts{"a": "1"}, facts{"a": "1", "b": "2"}, "b:\n  \n  2")
	f(facts{"a": "1"}, facts{}, "a:\n  1\n  ")
}

// descendants lists the children of a process and theirs.
func descendants(pid int) []int {
	var out []int
	for _, c := range children(pid) {
		out = append(append(out, c), descendants(c)...)
	}
	return out
}

// livingOf returns those of the processes that have not ended.
func livingOf(pids []int) []int {
	return slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return !alive([]int{pid}) })
}

// naming lists the living processes, except this one, whose command line or
// working folder has a folder in it.
func naming(dir string) []int {
	var out []int
	paths, _ := filepath.Glob("/proc/[0-9]*") // no error: the pattern is well-formed
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(path))
		line, _ := os.ReadFile(filepath.Join(path, "cmdline"))
		in, _ := os.Readlink(filepath.Join(path, "cwd"))
		if pid != os.Getpid() && (strings.Contains(string(line), dir) || strings.HasPrefix(in, dir)) && alive([]int{pid}) {
			out = append(out, pid)
		}
	}
	return out
}
