package orchestrator

import (
	"context"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// manyTies is a run whose groups are often tied: two episodes each, and a score for the exit only.
func manyTies(change ...func(*config.Config)) config.Config {
	return small(append([]func(*config.Config){func(c *config.Config) {
		c.Run.Steps, c.Eval.Every, c.Algorithm.Groups, c.Algorithm.GroupSize = 2, 0, 3, 2
		c.Algorithm.Name, c.Algorithm.GenerationBatches = "grpo", 4
		c.Env.Vault.Doors, c.Env.Vault.Levers, c.Env.Vault.Score = 2, 2, "sparse"
	}}, change...)...)
}

// Groups of equal returns are replaced until the step is full or the batches are used up.
func TestGroupsOfEqualReturnsAreReplaced(t *testing.T) {
	w := newWorld(t, manyTies())
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	further := 0
	for _, m := range w.steps {
		trained := m.Groups - m.NoGradient
		if m.Batches > 4 || trained > 3 || m.Batches < 4 && trained != 3 {
			t.Errorf("step %d: %d batches, %d groups, %d without a gradient", m.Step, m.Batches, m.Groups, m.NoGradient)
		}
		further += m.Groups - 3
	}
	if further == 0 {
		t.Error("no group was replaced: the test shows nothing")
	}
	for _, r := range trained(w) {
		if !slices.ContainsFunc(r.Advantages, func(a float32) bool { return a != 0 }) {
			t.Error("an episode of a tied group was trained")
		}
	}
	one := newWorld(t, manyTies(func(c *config.Config) { c.Algorithm.GenerationBatches = 1 }))
	if _, err := one.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if m := one.steps[0]; m.Groups != 3 || m.Batches != 0 {
		t.Errorf("without the key: %d groups in %d batches", m.Groups, m.Batches)
	}
}

// REINFORCE++ without a baseline gives tied groups advantages. Dropped groups have none.
func TestDroppedGroupsAreNotWhitened(t *testing.T) {
	episode := func(group, n int, r float64) rollout.Trajectory {
		return rollout.Trajectory{Group: group, Episode: n, EnvReturn: r, Stop: rollout.StopTerminated,
			RowsWithoutTips: []rollout.Row{trainedRow(2)}}
	}
	in := Sampled{Plan: Plan{Groups: make([]GroupPlan, 2)}, Groups: [][]rollout.Trajectory{
		{episode(0, 0, 1), episode(0, 1, 1)}, {episode(1, 0, 1), episode(1, 1, 0)}}}
	for g := range in.Plan.Groups {
		in.Plan.Groups[g].Episodes = []EpisodePlan{{Mode: OnPolicy}, {Mode: OnPolicy}}
	}
	c := demo()
	c.Algorithm.Estimator, c.Algorithm.Baseline = "reinforce_plus_plus", "group"
	s := estimateStage{config: c, enabled: true}
	if all := s.run(in); len(all.Episodes) != 4 || all.NoGradient != 0 {
		t.Fatalf("%d episodes, %d groups without a gradient: the test shows nothing", len(all.Episodes), all.NoGradient)
	}
	if in.tied = s.tied(in); len(in.tied) != 1 || !in.tied[0] {
		t.Fatalf("tied: %v", in.tied)
	}
	got := s.run(in)
	if len(got.Episodes) != 2 || got.Episodes[0].group != 1 || got.Groups != 2 || got.NoGradient != 1 ||
		len(got.Estimated) != 4 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []float64{math.Sqrt(0.75), -math.Sqrt(0.75)} { // ±.5 over 4 tokens: variance 1/3
		if a := got.Episodes[i].advantage; math.Abs(a-want) > 1e-6 {
			t.Errorf("advantage %v, want %v", a, want)
		}
	}
}

// A run that is stopped within a further batch continues with the same groups.
func TestFurtherGroupsSurviveAStop(t *testing.T) {
	whole := newWorld(t, manyTies())
	if _, err := whole.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	for n := 5; n <= 35; n += 10 {
		w := newWorld(t, manyTies())
		ctx, cancel := context.WithCancel(context.Background())
		w.backend.BeforeSample = (&stopAfter{n: n, cancel: cancel}).count
		_, err := w.run(ctx)
		cancel()
		if err == nil {
			continue // it was done before
		}
		w.backend.BeforeSample = nil
		if _, err := w.run(context.Background()); err != nil {
			t.Fatal(err)
		}
		for i, m := range w.steps {
			want := whole.steps[i]
			if m.Groups != want.Groups || m.NoGradient != want.NoGradient || m.Batches != want.Batches ||
				m.Free.Return != want.Free.Return {
				t.Errorf("stopped after %d requests: step %d: %+v, want %+v", n, m.Step, m, want)
			}
		}
	}
}

func TestFurtherGroupsOfAPlan(t *testing.T) {
	c := demo()
	c.Algorithm.ModeDraw, c.Algorithm.MemoryProbability = "step", 0.5
	tasks := []envs.Task{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	for step := range int64(20) {
		p := newPlan(c, tasks, step+1, 0)
		more := furtherGroups(c, tasks, p, 2)
		again := furtherGroups(c, tasks, p, 2)
		if !reflect.DeepEqual(more, again) || !reflect.DeepEqual(more.Groups[:len(p.Groups)], p.Groups) ||
			more.Further != 1 {
			t.Fatalf("step %d: %+v, %+v", step+1, more, again)
		}
		first, mode := p.Groups[0].Episodes[0].Mode, more.Groups[len(p.Groups)].Episodes[0].Mode
		if mode.Tips() != first.Tips() {
			t.Errorf("step %d: mode %s beside %s", step+1, mode, first)
		}
		seeds := map[uint64]bool{}
		for _, g := range furtherGroups(c, tasks, more, 3).Groups {
			for _, e := range g.Episodes {
				if seeds[e.Seed] {
					t.Fatal("two episodes have one seed")
				}
				seeds[e.Seed] = true
			}
		}
	}
}

// DAPO's numbers: 16,384 tokens and a buffer of 4,096.
func TestOverlongPenalty(t *testing.T) {
	f := func(factor float64, tokens int, want float64) {
		t.Helper()
		c := config.Rollout{MaxTokens: 20480, OverlongBuffer: 4096, OverlongFactor: factor}
		if got := overlong(c, tokens); math.Abs(got-want) > 1e-12 {
			t.Errorf("%d tokens: %v, want %v", tokens, got, want)
		}
	}
	f(1, 0, 0)
	f(1, 16384, 0)
	f(1, 18432, -0.5)
	f(1, 20480, -1)
	f(10, 18432, -5)
	if got := overlong(config.Rollout{MaxTokens: 8, OverlongFactor: 1}, 8); got != 0 {
		t.Errorf("without a buffer: %v", got)
	}
	r := config.Rollout{MaxTokens: 4, OverlongBuffer: 2, OverlongFactor: 1}
	long := rollout.Trajectory{EnvReturn: 1, Turns: []rollout.Turn{{IDs: make([]int32, 4)}, {IDs: make([]int32, 3)}}}
	short := rollout.Trajectory{EnvReturn: 1, Turns: []rollout.Turn{{IDs: make([]int32, 2)}}}
	s := estimateStage{config: config.Config{Rollout: r}, enabled: true}
	group := s.score([]rollout.Trajectory{long, short}, GroupPlan{Episodes: make([]EpisodePlan, 2)}, 0)
	if a, b := group.returns[0].Return(), group.returns[1].Return(); a != -0.5 || b != 1 {
		t.Errorf("returns %v and %v, want -0.5 and 1", a, b)
	}
	if got := s.meanOverlong(Sampled{Groups: [][]rollout.Trajectory{{long, short}}}); got != -0.75 {
		t.Errorf("mean %v", got)
	}
}

func TestMemoryProbabilityFollowsTheGap(t *testing.T) {
	a := config.Algorithm{MemoryAnneal: true, MemoryProbability: 0.5, MemoryProbabilityMin: 0.1}
	step := func(free, tips float64) StepMetrics {
		return StepMetrics{Free: EpisodeStats{N: 4, Return: free}, Tips: EpisodeStats{N: 4, Return: tips}}
	}
	f := func(want float64, recent ...StepMetrics) {
		t.Helper()
		if got := memoryProbability(a, recent); math.Abs(got-want) > 1e-12 {
			t.Errorf("%+v: %v, want %v", recent, got, want)
		}
	}
	f(0.5)
	f(0.5, step(0, 0))
	f(0.5, step(0, 80))
	f(0.3, step(40, 80))
	f(0.1, step(80, 80))
	f(0.1, step(90, 80))
	f(0.5, step(-80, 0)) // negative scores
	f(0.3, step(0, 80), step(80, 80))
	f(0.5, StepMetrics{Free: EpisodeStats{N: 4, Return: 50}})
	var old []StepMetrics
	for range annealSteps {
		old = append(old, step(80, 80))
	}
	f(0.1, append([]StepMetrics{step(0, 80)}, old...)...) // it is too long ago
	a.MemoryAnneal = false
	f(0.5, step(80, 80))
}

// The probability of a step is in its plan and in its metrics, and each group keeps one episode with tips.
func TestAnnealedRun(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) {
		c.Algorithm.MemoryAnneal, c.Algorithm.MemoryProbabilityMin, c.Run.Steps = true, 0.01, 4
	}))
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, m := range w.steps {
		if want := memoryProbability(w.config.Algorithm, w.steps[:i]); m.MemoryProbability != want {
			t.Errorf("step %d: %v, want %v", m.Step, m.MemoryProbability, want)
		}
		if m.Tips.N < w.config.Algorithm.Groups {
			t.Errorf("step %d: %d episodes with tips", m.Step, m.Tips.N)
		}
	}
}

// Table 3 of the paper keeps the log-probs with tips, Algorithm 1 has those without. The
// tokens have log μ −.1 and −.2, and log π −2.3 and −6.
func TestOldLogprobsOfOffPolicyRows(t *testing.T) {
	e := trainedEpisode{rows: []rollout.Row{{Tokens: make([]int32, 3), LossMask: []bool{false, true, true},
		Logprobs: []float32{0, -0.1, -0.2}}}, tokens: 2}
	without := []float32{-2.3, -6}
	for k, want := range []float64{0.1108, 0.0030} {
		if got := math.Exp(float64(without[k] - e.rows[0].Logprobs[k+1])); math.Abs(got-want) > 5e-5 {
			t.Errorf("with tips: ratio %v, want %v", got, want)
		}
	}
	got, err := e.withLogprobs([][]float32{without})
	if err != nil || !slices.Equal(got.rows[0].Logprobs, []float32{0, -2.3, -6}) || e.rows[0].Logprobs[1] != -0.1 {
		t.Errorf("%v, %v", got.rows, err)
	}
	if _, err := e.withLogprobs([][]float32{{float32(math.NaN()), 0}}); err == nil {
		t.Error("NaN was accepted")
	}
}

// In a run, only off-policy rows change, and their old log-probs are the trainer's in their own context.
func TestOldLogprobsWithoutTips(t *testing.T) {
	rows := func(which string) (changed, same int) {
		w := newWorld(t, small(func(c *config.Config) {
			c.Loss.OffPolicyLogprobs, c.Run.Steps, c.Loss.KLSampled, c.Loss.MismatchCap = which, 2, 0, 0
		}))
		l, done := w.open()
		defer done()
		if _, err := l.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, r := range trained(w) {
			scores := w.trainer.policy.Score(0, r.Tokens)
			for k := range r.Tokens {
				if !r.Trains(k) {
					continue
				}
				if math.Abs(float64(scores[k-1]-r.Logprobs[k])) > 1e-4 {
					changed++
				} else {
					same++
				}
			}
		}
		return changed, same
	}
	if differ, _ := rows("tips"); differ == 0 {
		t.Error("tips: no token has another log-prob without tips: the test shows nothing")
	}
	if differ, same := rows("no_tips"); differ != 0 || same == 0 {
		t.Errorf("no_tips: %d of %d log-probs are not those of the trained context", differ, differ+same)
	}
}

// The writer of a tip sees earlier tips of the task, at most as many as the key says.
func TestReflectionRecallsEarlierTips(t *testing.T) {
	ask := func(n int) (asked rollout.Query, tips []string) {
		s := reflectStage{config: config.Reflection{EarlierTips: n}, recall: func(_ context.Context, q rollout.Query) (
			rollout.Recalled, error) {
			asked = q
			return rollout.Recalled{Tips: []prompt.Tip{{Text: "one"}, {Text: "two"}, {Text: "three"}}}, nil
		}}
		episode := rollout.Trajectory{Task: envs.Task{Scope: "house"}, Turns: []rollout.Turn{
			{Observation: envs.Observation{State: "first"}}, {Observation: envs.Observation{State: "last"}}}}
		got, err := s.earlier(context.Background(), &episode)
		if err != nil {
			t.Fatal(err)
		}
		for _, tip := range got {
			tips = append(tips, tip.Text)
		}
		return asked, tips
	}
	if q, tips := ask(2); q.Scope != "house" || q.State != "last" || !slices.Equal(tips, []string{"one", "two"}) {
		t.Errorf("%+v: %q", q, tips)
	}
	if q, tips := ask(0); q != (rollout.Query{}) || tips != nil {
		t.Errorf("%+v: %q", q, tips)
	}
	if _, tips := ask(9); len(tips) != 3 {
		t.Errorf("%q", tips)
	}
}
