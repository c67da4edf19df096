package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// Each step goes through its phases in order, each counts to its total, and the
// observer is told before the step ends.
func TestPhasesOfARun(t *testing.T) {
	c := small()
	c.Run.Steps, c.Eval.Every = 1, 1
	w := newWorld(t, c)
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	episodes := c.Algorithm.Groups * c.Algorithm.GroupSize
	var got []string
	for i, p := range w.phases {
		last := i == len(w.phases)-1 || w.phases[i+1].Since != p.Since
		if p.Of != 1 || p.Since.IsZero() || p.Done > p.Total {
			t.Errorf("phase %+v", p)
		}
		if last && p.Name == watchdog.PhaseReflection && p.Done == p.Total {
			p.Total = 0 // how many episodes had no tip yet depends on the order
		}
		if last {
			got = append(got, fmt.Sprintf("%s %d/%d %s", p.Text(), p.Done, p.Total, p.Unit))
		}
	}
	want := []string{"step 1: start 0/0 ", "evaluation 8/8 episodes",
		fmt.Sprintf("step 1: sampling %d/%d episodes", episodes, episodes),
		fmt.Sprintf("step 1: reflection %d/0 tips", episodes),
		fmt.Sprintf("step 1: training %d/%d episodes", episodes, episodes),
		"step 1: publishing 0/0 ", "step 1: commit 0/0 ", "evaluation after step 1 16/16 episodes",
		"evaluation after step 1 16/16 episodes"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("phases:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var names []string
	for _, r := range w.steps[0].Phases {
		names = append(names, r.Name)
		if r.Since.IsZero() || r.Seconds < 0 {
			t.Errorf("record %+v", r)
		}
	}
	if got := strings.Join(names, " "); got != "sampling reflection training publishing" {
		t.Errorf("the metrics have the phases %s", got)
	}
}

// The time that is left follows from the rate or, before anything is done, from
// what the phase took the last time.
func TestETA(t *testing.T) {
	f := func(p watchdog.Phase, age, want time.Duration, wantKnown bool) {
		t.Helper()
		p.Since = time.Unix(1000, 0)
		if got, known := p.ETA(p.Since.Add(age)); got != want || known != wantKnown {
			t.Errorf("%+v after %s: %s, %v; want %s, %v", p, age, got, known, want, wantKnown)
		}
	}
	const s = time.Second
	f(watchdog.Phase{Done: 8, Total: 32}, 4*s, 12*s, true)
	f(watchdog.Phase{Done: 20, Begun: 16, Total: 32}, 4*s, 12*s, true)
	f(watchdog.Phase{Total: 32}, 4*s, 0, false)
	f(watchdog.Phase{Total: 32, Usual: 10}, 4*s, 6*s, true)
	f(watchdog.Phase{Usual: 10}, 14*s, 0, true)
	f(watchdog.Phase{Done: 32, Total: 32, Usual: 10}, 4*s, 0, true)
}

// Each step counts the requests that were late since the step before.
func TestLateRequestsOfAStep(t *testing.T) {
	n := int64(0)
	l := &Loop{LateRequests: func() int64 { return n }}
	var got []int
	for _, total := range []int64{0, 3, 3, 8} {
		n = total
		got = append(got, newStepMetrics(finishedStep{late: l.takeLate()}, 0).Late)
	}
	if !slices.Equal(got, []int{0, 3, 0, 5}) {
		t.Errorf("late requests of the steps: %v", got)
	}
	if n := (&Loop{}).takeLate(); n != 0 {
		t.Errorf("%d late requests of one server", n)
	}
}
