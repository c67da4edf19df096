package view

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// A recording writes a run.
type recording struct {
	t *testing.T
	*ledger.Ledger
}

func record(t *testing.T, dir string) recording {
	t.Helper()
	l, err := ledger.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return recording{t, l}
}

// add stores an episode with one turn, which saw tips.
func (r recording) add(
	kind string, at Place, task string, result float64, change func(*rollout.Trajectory), tips ...string,
) {
	r.t.Helper()
	turn := rollout.Turn{Action: "go", IDs: []int32{1}, Logprobs: sampler.Logprobs{-1}, Finish: sampler.FinishStop}
	for _, tip := range tips {
		turn.Tips = append(turn.Tips, prompt.Tip{ID: 1, Text: tip})
	}
	e := rollout.Trajectory{Task: envs.Task{ID: task, Scope: "scope"}, Step: at.Step, Group: at.Group, Episode: at.Episode,
		Turns: []rollout.Turn{turn}, Stop: rollout.StopTerminated, EnvReturn: result}
	if change != nil {
		change(&e)
	}
	p, err := rollout.Pack(e)
	if err != nil {
		r.t.Fatal(err)
	}
	err = r.AddEpisode(r.t.Context(), ledger.Episode{Step: at.Step, Group: at.Group, Episode: at.Episode, Task: task,
		Mode: "on_policy", Stop: string(e.Stop), EnvReturn: result, Trajectory: p.JSON, Tokens: p.Tokens,
		Logprobs: p.Logprobs, Kind: kind})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r recording) commit(step int64, estimates ...ledger.Estimate) {
	r.t.Helper()
	err := errors.Join(r.SavePlan(r.t.Context(), step, json.RawMessage(fmt.Sprintf(`{"step":%d}`, step))),
		r.Commit(r.t.Context(), ledger.Step{Step: step, Metrics: json.RawMessage(fmt.Sprintf(`{"step":%d}`, step)),
			Estimates: estimates}, nil, nil))
	if err != nil {
		r.t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *Run {
	t.Helper()
	r, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// places lists the episodes that a query selects.
func places(t *testing.T, r *Run, q Query) string {
	t.Helper()
	var out []string
	err := r.Episodes(context.Background(), q, func(e Episode) error {
		out = append(out, e.Place.String())
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return strings.Join(out, " ")
}

func TestPlaces(t *testing.T) {
	f := func(text string, want Place, valid bool) {
		t.Helper()
		got, err := ParsePlace(text)
		if valid != (err == nil) || valid && (got != want || got.String() != text) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	f("", Everywhere, true)
	f("3", Place{3, -1, -1}, true)
	f("3/0", Place{3, 0, -1}, true)
	f("3/0/12", Place{3, 0, 12}, true)
	for _, bad := range []string{"/", "3/", "3/0/1/2", "-1", "3/x", " 3", "99999999999", "0x3"} {
		f(bad, Place{}, false)
	}
}

// A run that is open for writing is read beside it.
func TestEpisodesAreFoundByPlaceAndCondition(t *testing.T) {
	dir := t.TempDir()
	w := record(t, dir)
	cut := func(e *rollout.Trajectory) { e.Turns[0].Finish = sampler.FinishLength }
	failed := func(e *rollout.Trajectory) { e.Stop, e.Err = rollout.StopFailed, "the server is down" }
	w.add("", Place{1, 0, 0}, "a", 0.25, cut)
	w.add("", Place{1, 0, 1}, "a", 1, nil, "left")
	w.add("", Place{1, 1, 0}, "b", 1, cut, "left")
	w.add(ledger.KindFailed, Place{1, 1, 1}, "b", 0, failed)
	w.commit(1, ledger.Estimate{Group: 0, Episode: 1, Advantage: 0.5, Bonus: 0.1, Tokens: 1, Logprobs: []float32{-2}})
	w.add("", Place{2, 0, 0}, "a", -3, nil)
	w.add("eval", Place{1, 0, 0}, "a", 7, nil)

	r := open(t, dir)
	f := func(want string, q Query) {
		t.Helper()
		if got := places(t, r, q); got != want {
			t.Errorf("%+v: %s, want %s", q, got, want)
		}
	}
	f("1/0/0 1/0/1 1/1/0 2/0/0", Query{In: Everywhere})
	f("1/0/0 1/0/1 1/1/0", Query{In: Place{1, -1, -1}})
	f("1/1/0", Query{In: Place{1, 1, -1}})
	f("1/0/0 1/1/0", Query{In: Everywhere, Cut: true})
	f("1/1/0", Query{In: Everywhere, Cut: true, WithTips: true})
	f("1/1/1", Query{In: Everywhere, Failed: true})
	f("1/0/0", Query{In: Everywhere, Kind: "eval"})
	f("", Query{In: Everywhere, Kind: "eval", Failed: true})
	f("", Query{In: Place{9, -1, -1}})

	best := func(want string, q Query, worst bool) {
		t.Helper()
		if e, err := r.Best(t.Context(), q, worst); err != nil || e.Place.String() != want {
			t.Errorf("%+v: %s, %v, want %s", q, e.Place, err, want)
		}
	}
	best("1/1/0", Query{In: Everywhere}, false) // the newest of equal returns
	best("2/0/0", Query{In: Everywhere}, true)
	best("1/0/0", Query{In: Place{1, 0, -1}}, true)
	best("1/0/0", Query{In: Everywhere, Kind: "eval"}, false)
	best("1/1/0", Query{In: Everywhere, WithTips: true}, true)

	e, err := r.Episode(t.Context(), Query{In: Place{1, 0, 1}})
	want := &Estimate{Advantage: 0.5, Bonus: 0.1, Tokens: 1, Logprobs: sampler.Logprobs{-2}}
	if diff := cmp.Diff(want, e.Estimate); err != nil || diff != "" || e.TipsShown != 1 || e.Kind != "training" {
		t.Errorf("%v\n%s", err, diff)
	}
	if e, err = r.Episode(t.Context(), Query{In: Place{1, 1, 1}}); err != nil || e.Error != "the server is down" {
		t.Errorf("a failed episode: %+v, %v", e, err)
	}
	if _, err := r.Episode(t.Context(), Query{In: Place{5, 0, 0}}); !errors.Is(err, ErrNone) {
		t.Errorf("an episode that does not exist: %v", err)
	}
}

func TestListShowsRunsThatCannotBeRead(t *testing.T) {
	root := t.TempDir()
	w := record(t, filepath.Join(root, "group", "good"))
	w.add("", Place{1, 0, 0}, "a", 1, nil)
	w.add("eval", Place{0, 0, 0}, "a", 1, nil)
	w.commit(1)
	if err := w.SaveEvaluation(t.Context(), 1, "eval", 0, []byte(`{"kind":"eval","step":1,"success":0.5}`)); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(root, "bad")
	file := filepath.Join(bad, "run.db")
	if err := errors.Join(os.Mkdir(bad, 0o700), os.WriteFile(file, []byte("no database"), 0o600)); err != nil {
		t.Fatal(err)
	}
	all, err := List(t.Context(), root)
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if all[0].Problem == "" || all[0].Dir != bad {
		t.Errorf("%+v", all[0])
	}
	good := all[1]
	if good.Problem != "" || good.Steps != 1 || good.Episodes != 1 || good.Evaluated != 1 || good.Bytes == 0 ||
		good.Evaluation == nil || good.Evaluation.Success != 0.5 {
		t.Errorf("%+v", good)
	}
	if _, err := List(t.Context(), filepath.Join(root, "none")); err == nil {
		t.Error("a folder that does not exist has runs")
	}
}

func TestTipsAreComparedWithinTaskAndSteps(t *testing.T) {
	dir := t.TempDir()
	w := record(t, dir)
	wrote := func(tip string) func(*rollout.Trajectory) {
		return func(e *rollout.Trajectory) { e.Tip, e.TipVersion = tip, 4 }
	}
	w.add("", Place{1, 0, 0}, "a", 0, wrote("left")) // before the first step that showed it
	w.commit(1)
	w.add("", Place{2, 0, 0}, "a", 1, nil, "left")
	w.add("", Place{2, 0, 1}, "a", 0, nil, "left", "right")
	w.add("", Place{2, 0, 2}, "a", 0, wrote("left"))
	w.add("", Place{2, 1, 0}, "b", 1, nil) // another task
	w.commit(2)
	w.add("", Place{3, 0, 0}, "a", 1, nil, "left")
	w.add("", Place{3, 0, 1}, "a", 1, nil)
	w.commit(3)
	w.add("", Place{4, 0, 0}, "a", 0, nil) // after the last step that showed it

	tips, all, err := open(t, dir).Tips(t.Context(), TipQuery{})
	if err != nil || len(tips) != 2 || all != 2 {
		t.Fatalf("%+v, %v", tips, err)
	}
	left := tips[0]
	if left.Text != "left" || left.Written != 2 || *left.Author != (Place{1, 0, 0}) || left.Version != 4 ||
		left.Seen != 3 || left.Shown != 3 || left.FirstShown != 2 || left.LastShown != 3 {
		t.Errorf("%+v", left)
	}
	a := left.Association
	if a == nil || a.Seen.N != 3 || a.Others.N != 2 {
		t.Fatalf("%+v", a)
	}
	near(t, "seen", a.Seen.Mean, 2./3)
	near(t, "others", a.Others.Mean, 0.5)
	near(t, "difference", a.Difference, 1./6)
	if right := tips[1]; right.Author != nil || right.Association.Seen.N != 1 || right.Association.Others.N != 2 {
		t.Errorf("%+v, %+v", right, right.Association)
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 5e-5 {
		t.Errorf("%s: %.4f, want %.4f", what, got, want)
	}
}

// rates returns n returns, of which hits are 1 and the others 0.
func rates(hits, n int) returns {
	values := make([]float64, n)
	for i := range hits {
		values[i] = 1
	}
	return returnsOf(values...)
}

// returnsOf sums up returns, of which the highest is 1.
func returnsOf(values ...float64) returns {
	var s sums
	for _, v := range values {
		s.add(v, v == 1)
	}
	return s.returns(0)
}

func TestIntervalsOfRates(t *testing.T) {
	f := func(low, high float64, strata ...stratum) {
		t.Helper()
		a := associationOf(strata, map[float64]bool{0: true, 1: true})
		near(t, "low", *a.Low, low)
		near(t, "high", *a.High, high)
	}
	// Newcombe, table II, method 10.
	f(0.0524, 0.3339, stratum{rates(56, 70), rates(48, 80)})
	f(0.1705, 0.8090, stratum{rates(9, 10), rates(3, 10)})
	// Two equal tasks: half of the squared margins of one.
	one := associationOf([]stratum{{rates(56, 70), rates(48, 80)}}, map[float64]bool{0: true, 1: true})
	d, s := one.Difference, math.Sqrt(2)
	task := stratum{rates(56, 70), rates(48, 80)}
	f(d-(d-*one.Low)/s, d+(*one.High-d)/s, task, task)
}

func TestIntervalsOfMeans(t *testing.T) {
	many := map[float64]bool{0: true, 1: true, 2: true}
	// Welch's t test of 1, 2, 3 against 2, 4, 9: difference -3, standard error 2.1602, 2.3037 degrees of freedom.
	a := associationOf([]stratum{{returnsOf(1, 2, 3), returnsOf(2, 4, 9)}}, many)
	near(t, "difference", a.Difference, -3)
	margin := a.Difference - *a.Low
	near(t, "high", *a.High, a.Difference+margin)
	se := math.Sqrt(1./3 + 13./3)
	if ratio := margin / se; ratio < 3.18 || ratio > 4.31 { // t quantiles of 3 and of 2 degrees of freedom
		t.Errorf("%v standard errors", ratio)
	}
	// A task that differs as a whole does not widen the interval.
	b := associationOf([]stratum{{returnsOf(1, 2, 3), returnsOf(2, 4, 9)},
		{returnsOf(101, 102, 103), returnsOf(102, 104, 109)}}, many)
	near(t, "difference of two tasks", b.Difference, -3)
	if b.Difference-*b.Low > margin {
		t.Errorf("%v, wider than %v", b.Difference-*b.Low, margin)
	}
	if a := associationOf([]stratum{{returnsOf(1), returnsOf(2, 3)}}, many); a.Low != nil {
		t.Errorf("an interval from one episode: %v", *a.Low)
	}
	if a := associationOf([]stratum{{returnsOf(1, 1), returnsOf(1, 1)}}, map[float64]bool{1: true}); a.Low != nil {
		t.Errorf("an interval from equal returns: %v", *a.Low)
	}
}
