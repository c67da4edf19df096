package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

func TestWholeRun(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps = 6 }))
	s, err := w.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	episodes := 6 * w.config.Algorithm.Groups * w.config.Algorithm.GroupSize
	if s.Steps != 6 || s.Episodes != episodes || len(w.steps) != 6 {
		t.Errorf("summary %+v", s)
	}
	first, last := w.steps[0], w.steps[5]
	if first.Tips.Return >= last.Tips.Return || last.Tips.Return < 0.5 {
		t.Errorf("tips did not help: return with tips %.2f, then %.2f", first.Tips.Return, last.Tips.Return)
	}
	if last.Version != 6 || last.NewTips == 0 || last.Tips.TipsShown == 0 ||
		last.Modes[OffPolicy] == 0 || last.Modes[OnPolicyTips] == 0 || last.Modes[OnPolicy] == 0 {
		t.Errorf("last step %+v", last)
	}
	// Evaluated at 0, 2, 4 and, on both splits, at the end.
	var at []string
	for _, e := range w.evals {
		at = append(at, fmt.Sprint(e.Step, e.Kind))
	}
	if got := strings.Join(at, " "); got != "0eval 2eval 4eval 6eval 6test" {
		t.Errorf("evaluations: %s", got)
	}
	if got := w.backend.Served(); !slices.Equal(got, []int{0, 6}) {
		t.Errorf("versions served at the end: %v", got)
	}
}

func TestGRPOIsTheSameLoopWithoutMemory(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Algorithm.Name = "grpo" }))
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.steps {
		if m.Tips.N != 0 || m.NewTips != 0 || m.Modes[OnPolicy] != m.Free.N {
			t.Errorf("step %+v", m)
		}
	}
	for _, call := range w.backend.Calls() {
		text := w.backend.LastUser(call.Request.Prompt)
		if strings.Contains(text, "Tips:") || strings.Contains(text, "Write one tip") {
			t.Fatalf("the memory was used: %q", text)
		}
	}
}

func TestARunIsAFunctionOfItsSeed(t *testing.T) {
	trace := func(seed uint64) string {
		w := newWorld(t, small(func(c *config.Config) { c.Run.Seed = seed }))
		if _, err := w.run(context.Background()); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, m := range w.steps {
			m.Seconds, m.Phases = Seconds{}, nil
			text, _ := json.Marshal(m)
			out = append(out, string(text))
		}
		for _, e := range w.evals {
			e.Seconds, e.TrainSeconds = 0, 0
			text, _ := json.Marshal(e)
			out = append(out, string(text))
		}
		return strings.Join(out, "\n")
	}
	if a, b := trace(7), trace(7); a != b {
		t.Errorf("the same seed, two runs:\n%s\n\n%s", a, b)
	}
	if trace(7) == trace(8) {
		t.Error("another seed, the same run")
	}
}

// trained returns the rows of all batches.
func trained(w *world) []trainerbridge.Row {
	var out []trainerbridge.Row
	for _, b := range w.trainer.batches {
		out = append(out, b...)
	}
	return out
}

// Rows that are trained off-policy hold no token of a tip, even where the
// tokenizer merges the tip's border with other text. KL rows are the rows as they
// were sampled.
func TestOffPolicyRowsCarryNoTip(t *testing.T) {
	w := newWorld(t, small())
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	consumed := map[string]bool{} // prompt and answer of every call, by ids
	for _, c := range w.backend.Calls() {
		consumed[fmt.Sprint(append(slices.Clone(c.Request.Prompt), c.Completion.IDs...))] = true
	}
	kinds := map[string]int{}
	for _, r := range trained(w) {
		text := w.backend.Decode(r.Tokens)
		hasTips, klOnly := strings.Contains(text, "Tips:"), !slices.Contains(r.LossMask, true)
		sampled := consumed[fmt.Sprint(r.Tokens)]
		switch {
		case klOnly && !hasTips: // no tip was known yet
			kinds["KL only, no tip known yet"]++
		case klOnly:
			kinds["KL only"]++
			if !sampled {
				t.Fatal("a KL row is not what the server consumed and produced")
			}
		case hasTips:
			kinds["on-policy with tips"]++
			if !sampled {
				t.Fatal("a row with tips is not what the server consumed and produced")
			}
		case sampled:
			kinds["on-policy"]++
		default:
			kinds["off-policy"]++ // the same episode without its tips was never sampled
		}
	}
	for _, kind := range []string{"KL only", "on-policy", "on-policy with tips", "off-policy"} {
		if kinds[kind] == 0 {
			t.Errorf("no row of kind %q in %v", kind, kinds)
		}
	}
}

// Every mean is folded into the rows: a mini-batch's token weights are
// |advantage| / (tokens · episodes).
func TestRowsCarryTheNormalisation(t *testing.T) {
	c := small(func(c *config.Config) { c.Loss.KL, c.Loss.KLSampled = 0.05, 0.3 }).Loss
	sequence := func(n, trained int) rollout.Row {
		s := rollout.Row{Tokens: make([]int32, n), LossMask: make([]bool, n), Logprobs: make([]float32, n)}
		for i := n - trained; i < n; i++ {
			s.LossMask[i], s.Logprobs[i] = true, -1
		}
		return s
	}
	batch := []trainedEpisode{
		{advantage: 2, rows: []rollout.Row{sequence(9, 2)}, tokens: 2, sampledContext: true},
		{advantage: -1, rows: []rollout.Row{sequence(9, 4)}, klRows: []rollout.Row{sequence(12, 4)}, tokens: 4},
	}
	sum := func(v []float32) (s float64) {
		for _, x := range v {
			s += float64(x)
		}
		return s
	}
	f := func(average string, advantages, kl []float64) {
		t.Helper()
		c.Average = average
		rows, _ := rows(batch, c, nil)
		for i, r := range rows {
			if math.Abs(sum(r.Advantages)-advantages[i]) > 1e-6 || math.Abs(sum(r.KL)-kl[i]) > 1e-6 {
				t.Errorf("%s, row %d: advantages sum to %g, kl to %g; want %g, %g",
					average, i, sum(r.Advantages), sum(r.KL), advantages[i], kl[i])
			}
			if err := r.Check(); err != nil {
				t.Errorf("%s, row %d: %v", average, i, err)
			}
		}
	}
	f("episode", []float64{2 / 2.0, -1 / 2.0, 0}, []float64{0.35 / 2, 0.05 / 2, 0.3 / 2})
	f("token", []float64{2 * 2 / 6.0, -1 * 4 / 6.0, 0}, []float64{0.35 * 2 / 6, 0.05 * 4 / 6, 0.3 * 4 / 6})
}

// A trainer that dies during a step is restored. The whole step is trained again
// from the same weights and published once.
func TestATrainerThatDiesIsRestored(t *testing.T) {
	f := func(call string) {
		t.Helper()
		w := newWorld(t, small())
		died := false
		w.trainer.fail = func(c string) error {
			if c == call && !died && w.trainer.version == 1 {
				died = true
				return fmt.Errorf("gone: %w", trainerbridge.ErrUnavailable)
			}
			return nil
		}
		if _, err := w.run(context.Background()); err != nil {
			t.Errorf("%s: %v", call, err)
			return
		}
		if !died || w.steps[1].Restarts != 1 || w.steps[1].Version != 2 {
			t.Errorf("%s: died %v, step %+v", call, died, w.steps[1])
		}
		if w.trainer.count("restore 1") != 1 {
			t.Errorf("%s: calls %v", call, w.trainer.calls)
		}
	}
	f("forward_backward")
	f("optim_step")
	f("save 2")
}

func TestATrainerThatKeepsDyingStopsTheRun(t *testing.T) {
	w := newWorld(t, small())
	w.trainer.fail = func(c string) error {
		if c == "optim_step" {
			return trainerbridge.ErrUnavailable
		}
		return nil
	}
	_, err := w.run(context.Background())
	if !errors.Is(err, trainerbridge.ErrUnavailable) || w.trainer.count("restore") != 1+w.config.Trainer.Restarts {
		t.Errorf("%v after %d restores", err, w.trainer.count("restore"))
	}
}

// If the server is gone, the step fails and is not committed. The next command
// samples the failed episodes again.
func TestAStepOfFailuresIsNotCommitted(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Eval.Every = 0 }))
	w.backend.BeforeSample = func(context.Context, sampler.Policy, sampler.Request) error {
		return sampler.ErrPolicyGone
	}
	_, err := w.run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "episodes failed") || len(w.steps) != 0 {
		t.Fatalf("%d steps, %v", len(w.steps), err)
	}
	w.backend.BeforeSample = nil
	_, err = w.run(context.Background())
	if err != nil || len(w.steps) != w.config.Run.Steps || w.steps[0].Failed != 0 {
		t.Errorf("continued: %d steps, %v", len(w.steps), err)
	}
}

// An episode that a killed run had finished but not reflected upon keeps its
// turns and gets its tip.
func TestALateReflection(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Eval.Every, c.Run.Steps = 0, 1 }))
	ctx, cancel := context.WithCancelCause(context.Background())
	w.backend.BeforeSample = func(_ context.Context, _ sampler.Policy, r sampler.Request) error {
		if strings.Contains(w.backend.LastUser(r.Prompt), "Write one tip") {
			cancel(errors.New("stopped"))
			return context.Cause(ctx)
		}
		return nil
	}
	if _, err := w.run(ctx); err == nil {
		t.Fatal("not stopped")
	}
	w.backend.BeforeSample = nil
	before := len(w.backend.Calls())
	if _, err := w.run(context.Background()); err != nil || before == 0 {
		t.Fatal(err)
	}
	if m := w.steps[0]; m.NewTips != m.Free.N+m.Tips.N {
		t.Errorf("%d tips after %d episodes", m.NewTips, m.Free.N+m.Tips.N)
	}
}

// If the base model has a process of its own, it writes all tips of a step after the
// step's last episode. The tips are the same.
func TestTipsAfterTheLastEpisode(t *testing.T) {
	var outcomes []string
	for _, adapters := range []string{"process", "runtime"} {
		w := newWorld(t, small(func(c *config.Config) {
			c.Eval.Every, c.Run.Steps, c.Rollout.Concurrency, c.Reflection.By = 0, 1, 2, "base"
		}))
		w.backend.Adapters = adapters
		if _, err := w.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		first, last := len(w.backend.Calls()), 0 // tip, turn
		for i, call := range w.backend.Calls() {
			switch {
			case call.Policy.Version > 0: // the last evaluation
			case strings.Contains(w.backend.LastUser(call.Request.Prompt), "Write one tip"):
				first = min(first, i)
			default:
				last = i
			}
		}
		if adapters == "process" && first < last {
			t.Errorf("the first tip is call %d, the last turn is call %d", first, last)
		}
		m := w.steps[0]
		if r := m.Phases[1]; adapters == "process" && (r.Name != "reflection" || r.Done != m.Free.N+m.Tips.N) {
			t.Errorf("the phase after sampling: %+v", r)
		}
		outcomes = append(outcomes, outcome(t, w))
	}
	if outcomes[0] != outcomes[1] {
		t.Errorf("different runs:\n%s\n%s", outcomes[0], outcomes[1])
	}
}

func TestARefusedRequestIsNotRepeated(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Trainer.MaxIncompleteSteps = 0 }))
	w.trainer.fail = func(c string) error {
		if c == "forward_backward" {
			return &trainerbridge.RequestError{Op: c, Category: trainerbridge.CategoryUser, Message: "no"}
		}
		return nil
	}
	if _, err := w.run(context.Background()); err == nil || w.trainer.count("forward_backward") != 1 {
		t.Errorf("%v after %d tries", err, w.trainer.count("forward_backward"))
	}
}

// outcome is everything that two runs with the same result agree on: the
// metrics of all steps, times excepted, and the memory.
func outcome(t *testing.T, w *world) string {
	t.Helper()
	l, done := w.open()
	defer done()
	history, err := History(context.Background(), l.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range history {
		m.Seconds, m.Phases = Seconds{}, nil
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	stats, err := l.Memory.(*memory.Bank).Stats(context.Background())
	return fmt.Sprint(strings.Join(out, "\n"), stats, err)
}

// A run continues after a stop at any request: committed steps are not trained
// again, the memory is the one of the last commit, and the result
// is the same as without the stop.
func TestAStoppedRunContinues(t *testing.T) {
	whole := newWorld(t, small())
	if _, err := whole.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	total := len(whole.backend.Calls())
	want := outcome(t, whole)
	for _, after := range []int{1, total / 5, total / 2, total - 3} {
		w := newWorld(t, small())
		w.stopAfter(after)
		finished := w.finishedEpisodes()
		if after > total/3 && len(finished) == 0 {
			t.Fatalf("stopped after %d of %d calls: no episode is in the ledger", after, total)
		}
		before := w.backend.Calls()
		if _, err := w.run(context.Background()); err != nil {
			t.Fatalf("continuing after %d calls: %v", after, err)
		}
		if got := outcome(t, w); got != want {
			t.Errorf("stopped after %d of %d calls: another result\n%s\nwant\n%s", after, total, got, want)
		}
		for _, c := range w.backend.Calls()[len(before):] {
			isTurn := !strings.Contains(w.backend.LastUser(c.Request.Prompt), "Write one tip")
			if isTurn && finished[c.Request.Seed] {
				t.Fatalf("stopped after %d of %d calls: a turn of a finished episode was sampled again", after, total)
			}
		}
	}
}

// stopAfter runs until the n-th request and stops.
func (w *world) stopAfter(n int) {
	w.t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("stopped")
	stopper := &stopAfter{n: n, cancel: func() { cancel(stop) }}
	w.backend.BeforeSample = stopper.count
	defer func() { w.backend.BeforeSample = nil }()
	if _, err := w.run(ctx); !errors.Is(err, stop) {
		w.t.Fatalf("stopped at request %d: %v", n, err)
	}
}

// finishedEpisodes returns the seeds of all turns of finished training
// episodes.
func (w *world) finishedEpisodes() map[uint64]bool {
	w.t.Helper()
	l, done := w.open()
	defer done()
	seeds := map[uint64]bool{}
	for step := range int64(w.config.Run.Steps) {
		episodes, err := l.Ledger.Episodes(context.Background(), step+1)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range episodes {
			var t rollout.Trajectory
			if err := json.Unmarshal(e.Trajectory, &t); err != nil {
				w.t.Fatal(err)
			}
			for i := range t.Turns {
				seeds[sampler.Seed(t.Seed, uint64(i))] = true
			}
		}
	}
	return seeds
}

// If the transaction of a step fails, neither the step nor the memory is
// changed, and the run can be continued.
func TestStepAndMemoryAreOneTransaction(t *testing.T) {
	w := newWorld(t, small())
	l, done := w.open()
	broken := errors.New("disk full")
	l.Memory = failingCommit{l.Memory, broken}
	if _, err := l.Run(context.Background()); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	last, err := l.Ledger.Last(context.Background())
	stats, serr := l.Memory.(failingCommit).Strategy.(*memory.Bank).Stats(context.Background())
	if err != nil || serr != nil || last.Step != 0 || stats.Tips != 0 {
		t.Errorf("after the failed commit: step %d, %+v, %v %v", last.Step, stats, err, serr)
	}
	done()
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Two episodes for four tasks are played on the first and the third one, since neighbours are alike. So is the rest of
// six episodes.
func TestFewEpisodesAreSpreadOverTheTasks(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) {
		c.Run.Steps, c.Eval.Every, c.Eval.Episodes, c.Eval.FinalEpisodes = 1, 1, 2, 6
	}))
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	played := func(e Evaluation) (ids []string) {
		for _, r := range e.Tasks {
			ids = append(ids, fmt.Sprint(r.Task, " ", r.Episodes))
		}
		return ids
	}
	few, all := played(w.evals[0]), played(w.evals[1])
	if len(all) != 4 || len(few) != 2 {
		t.Fatalf("evaluated on %q, then on %q", few, all)
	}
	for i, want := range []string{all[0], all[2]} {
		id, _, _ := strings.Cut(want, " ")
		if few[i] != id+" 1" || want != id+" 2" {
			t.Errorf("2 episodes: %q, 6 episodes: %q", few[i], want)
		}
	}
}

// An evaluation plays each task equally often, and spreads the rest. No episode has the place of another one.
func TestPlacesOfAnEvaluation(t *testing.T) {
	f := func(tasks, episodes int, want ...int) {
		t.Helper()
		task := evaluationTask{tasks: make([]envs.Task, tasks), episodes: episodes}
		got, seen := make([]int, tasks), map[[2]int]bool{}
		for i := range episodes {
			g, e := task.place(i)
			got[g]++
			seen[[2]int{g, e}] = true
		}
		if diff := cmp.Diff(want, got); diff != "" || len(seen) != episodes {
			t.Errorf("%d episodes of %d tasks: %d places, %s", episodes, tasks, len(seen), diff)
		}
	}
	f(1, 3, 3)
	f(4, 4, 1, 1, 1, 1)
	f(4, 6, 2, 1, 2, 1)
	f(5, 12, 3, 2, 3, 2, 2)
	f(3, 8, 3, 3, 2)
}

// Episodes of an evaluation have the prompt limit of training episodes, which leave room for a tip.
func TestEvaluationsHaveTheLimitOfTraining(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) {
		c.Run.Steps, c.Eval.Temperature, c.Env.Vault.Doors, c.Env.Vault.Levers = 1, 0.5, 8, 2
	}))
	w.backend.Context = 720
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	longest := map[bool]int{} // by whether the request may be one of training
	for _, c := range w.backend.Calls() {
		if !strings.Contains(w.backend.Decode(c.Request.Prompt), "Write one tip") {
			training := c.Request.Temperature == w.config.Rollout.Temperature
			longest[training] = max(longest[training], len(c.Request.Prompt))
		}
	}
	limit := w.backend.Context - w.config.Rollout.MaxTokens - w.config.Reflection.MaxTokens
	if longest[false] == 0 || longest[false] > limit || longest[true] > limit {
		t.Errorf("prompts of up to %d tokens in evaluations and %d in training, at most %d are allowed",
			longest[false], longest[true], limit)
	}
}

// Failed episodes are no training episodes, in no count.
func TestFailedEpisodesAreNotCounted(t *testing.T) {
	group := GroupPlan{Episodes: []EpisodePlan{{Mode: OnPolicy}, {Mode: OnPolicy}, {Mode: OffPolicy}}}
	m := newStepMetrics(finishedStep{
		before: state{episodes: 10}, planned: Planned{Plan: Plan{Step: 1, Groups: []GroupPlan{group}}},
		sampled: Sampled{Plan: Plan{Groups: []GroupPlan{group}}, Groups: [][]rollout.Trajectory{
			{{Stop: rollout.StopTerminated}, {Stop: rollout.StopFailed}, {Stop: rollout.StopTerminated}}}},
	}, 0)
	if diff := cmp.Diff(map[Mode]int{OnPolicy: 1, OffPolicy: 1}, m.Modes); diff != "" ||
		m.Episodes != 12 || m.Failed != 1 ||
		m.Free.N != 1 || m.Tips.N != 1 {
		t.Errorf("%d episodes, %d failed, %d and %d: %s", m.Episodes, m.Failed, m.Free.N, m.Tips.N, diff)
	}
}
