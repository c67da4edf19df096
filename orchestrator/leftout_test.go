package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/samplertest"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// refusingTrainer refuses passes that hold some rows.
type refusingTrainer struct {
	*fakeTrainer
	refuse func(rows []trainerbridge.Row) error
	norm   func(step int) float64 // nil: 1
	steps  int
	// notFinite reports whether the gradient of some rows is not finite. done
	// counts the optimizer steps since the trainer was restored. Nil: never.
	notFinite func(rows []trainerbridge.Row, done int) bool
	gradient  []trainerbridge.Row
	done      int
}

func (r *refusingTrainer) ForwardBackward(ctx context.Context, rows []trainerbridge.Row, loss trainerbridge.Loss) (
	trainerbridge.Stats, [][]float32, error) {
	if r.refuse != nil {
		if err := r.refuse(rows); err != nil {
			return nil, nil, errors.Join(err, r.call("refused"))
		}
	}
	r.gradient = append(r.gradient, rows...)
	return r.fakeTrainer.ForwardBackward(ctx, rows, loss)
}

func (r *refusingTrainer) Restore(ctx context.Context, version int) error {
	r.gradient, r.done = nil, 0
	return r.fakeTrainer.Restore(ctx, version)
}

func (r *refusingTrainer) OptimStep(ctx context.Context, a trainerbridge.Adam) (trainerbridge.Stats, error) {
	stats, err := r.fakeTrainer.OptimStep(ctx, a)
	if r.steps++; r.norm != nil {
		stats["grad_norm:mean"] = r.norm(r.steps)
	}
	if r.notFinite != nil && r.notFinite(r.gradient, r.done) {
		stats["grad_norm:mean"] = math.Inf(1)
	}
	r.gradient, r.done = nil, r.done+1
	return stats, err
}

func userError(text string) error {
	return &trainerbridge.RequestError{Op: "forward_backward", Category: trainerbridge.CategoryUser, Message: text}
}

// runWith runs a world with another trainer and returns the details of the
// events of a kind.
func runWith(t *testing.T, w *world, trainer Trainer, kind string) (events []string, err error) {
	t.Helper()
	l, done := w.open()
	defer done()
	l.Trainer = trainer
	_, err = l.Run(context.Background())
	return eventsOf(t, l.Ledger, kind), err
}

func eventsOf(t *testing.T, led *ledger.Ledger, kind string) (events []string) {
	t.Helper()
	rows, err := led.DB().Query("SELECT step || ': ' || detail FROM events WHERE kind = ? ORDER BY id", kind)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		events = append(events, text)
	}
	return events
}

// hasTokens reports whether a row is one of the bad ones.
func hasTokens(bad [][]int32) func(trainerbridge.Row) bool {
	return func(r trainerbridge.Row) bool {
		return slices.ContainsFunc(bad, func(b []int32) bool { return slices.Equal(b, r.Tokens) })
	}
}

// Rows that the trainer refuses are left out, and only these. The run goes on.
func TestRefusedRowsAreLeftOut(t *testing.T) {
	f := func(name string, refuse func(bad func(trainerbridge.Row) bool, rows []trainerbridge.Row) error) {
		t.Helper()
		c := small(func(c *config.Config) { c.Run.Steps, c.Eval.Every, c.Loss.KLSampled = 2, 0, 0 })
		probe := newWorld(t, c)
		if _, err := probe.run(context.Background()); err != nil {
			t.Fatal(err)
		}
		all := probe.trainer.batches[0] // the first mini-batch of the first step
		bad := hasTokens([][]int32{all[1].Tokens, all[len(all)-1].Tokens})
		w := newWorld(t, c)
		trainer := &refusingTrainer{fakeTrainer: w.trainer}
		trainer.refuse = func(rows []trainerbridge.Row) error { return refuse(bad, rows) }
		events, err := runWith(t, w, trainer, eventLeftOut)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		first := w.steps[0]
		if first.LeftOut < 2 || first.Version != 1 || w.steps[1].Version != 2 || len(events) == 0 {
			t.Errorf("%s: events %v, steps %+v", name, events, w.steps)
		}
		if kept := probe.steps[0].Rows - first.Rows; kept != first.LeftOut {
			t.Errorf("%s: %d rows fewer, but %d left out", name, kept, first.LeftOut)
		}
		if !strings.HasPrefix(events[0], "1: the step is trained without row ") {
			t.Errorf("%s: %s", name, events[0])
		}
	}
	f("not finite", func(bad func(trainerbridge.Row) bool, rows []trainerbridge.Row) error {
		if slices.ContainsFunc(rows, bad) {
			return userError("the loss is not finite")
		}
		return nil
	})
	f("an answer that cannot be read", func(bad func(trainerbridge.Row) bool, rows []trainerbridge.Row) error {
		if slices.ContainsFunc(rows, bad) {
			return errors.New("read the trainer's answer: row 1: log-prob 3 is not a number")
		}
		return nil
	})
	f("out of memory", func(bad func(trainerbridge.Row) bool, rows []trainerbridge.Row) error {
		i := slices.IndexFunc(rows, bad)
		if i < 0 {
			return nil
		}
		err := userError("out of memory").(*trainerbridge.RequestError)
		err.OutOfMemory = &trainerbridge.OutOfMemory{Row: i, Tokens: len(rows[i].Tokens)}
		return err
	})
}

// A row during which the system kills the trainer because memory runs out is left out
// after the second kill, which does not use up the budget. Each kill is an event.
func TestRowsThatKillTheTrainerAreLeftOut(t *testing.T) {
	c := small(func(c *config.Config) { c.Run.Steps, c.Eval.Every, c.Eval.FinalEpisodes, c.Loss.KLSampled = 1, 0, 1, 0 })
	probe := newWorld(t, c)
	if _, err := probe.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	var lengths []int
	for _, r := range slices.Concat(probe.trainer.batches...) {
		lengths = append(lengths, len(r.Tokens))
	}
	slices.Sort(lengths)
	f := func(name string, restarts, killers, wantKills, wantLeft int) {
		t.Helper()
		longest := lengths[len(lengths)-killers:]
		c.Trainer.Restarts = restarts
		w := newWorld(t, c)
		trainer := &refusingTrainer{fakeTrainer: w.trainer}
		trainer.refuse = func(rows []trainerbridge.Row) error {
			tooLong := func(r trainerbridge.Row) bool { return len(r.Tokens) >= longest[0] }
			if !slices.ContainsFunc(rows, tooLong) {
				return nil
			}
			return fmt.Errorf("forward_backward: %w", &trainerbridge.ExitError{State: "signal: killed", OutOfMemory: true})
		}
		left, err := runWith(t, w, trainer, eventLeftOut)
		if err != nil || len(w.steps) != 1 {
			t.Errorf("%s: %v, %d steps", name, err, len(w.steps))
			return
		}
		l, done := w.open()
		defer done()
		kills := len(eventsOf(t, l.Ledger, "trainer restart"))
		if first := w.steps[0]; kills != wantKills || first.LeftOut != wantLeft || first.Restarts != wantKills {
			t.Errorf("%s: %d kills, want %d; %d rows left out, want %d; %v", name, kills, wantKills, first.LeftOut,
				wantLeft, left)
		}
	}
	f("one row", 3, 1, 2, 1)
	f("one row without restarts", 0, 1, 1, 1)
	f("more rows than restarts", 1, 5, 4, 7)
}

// unique returns the rows of a mini-batch that no other row of the step equals.
func unique(batches [][]trainerbridge.Row, n int) (out []trainerbridge.Row) {
	all := slices.Concat(batches...)
	for _, r := range batches[n] {
		is, found := hasTokens([][]int32{r.Tokens}), 0
		for _, other := range all {
			if is(other) {
				found++
			}
		}
		if found == 1 {
			out = append(out, r)
		}
	}
	return out
}

// If a gradient is not finite, the step loses the fewest rows without which it is
// finite: rows that are bad alone, or some of those that are bad together. They may
// be bad only after the step's first update.
func TestRowsOfAGradientThatIsNotFinite(t *testing.T) {
	c := small(func(c *config.Config) { c.Run.Steps, c.Eval.Every, c.Loss.KLSampled = 1, 0, 0 })
	probe := newWorld(t, c)
	if _, err := probe.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	f := func(name string, batch int, bad []int, together bool, after, want int) {
		t.Helper()
		rows := unique(probe.trainer.batches, batch)
		isBad := make([]func(trainerbridge.Row) bool, len(bad))
		for i, k := range bad {
			isBad[i] = hasTokens([][]int32{rows[k].Tokens})
		}
		w := newWorld(t, c)
		trainer := &refusingTrainer{fakeTrainer: w.trainer}
		trainer.notFinite = func(rows []trainerbridge.Row, done int) bool {
			n := 0
			for _, is := range isBad {
				if slices.ContainsFunc(rows, is) {
					n++
				}
			}
			return done >= after && (n == len(isBad) || n > 0 && !together)
		}
		events, err := runWith(t, w, trainer, eventLeftOut)
		if err != nil || w.steps[0].LeftOut != want || w.steps[0].Version != 1 || len(events) == 0 {
			t.Errorf("%s: %v, events %q, %+v", name, err, events, w.steps)
		}
	}
	f("one row", 0, []int{2}, false, 0, 1)
	f("two rows", 0, []int{0, 3}, false, 0, 2)
	f("two rows together", 0, []int{0, 3}, true, 0, 1)
	f("three rows together, which are neighbours", 0, []int{0, 1, 2}, true, 0, 1)
	f("one row after an update", 1, []int{1}, false, 1, 1)
}

// A gradient that is not finite once, and never again, costs the mini-batch: the
// run goes on.
func TestGradientThatIsNotFinite(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps, c.Eval.Every = 1, 0 }))
	trainer := &refusingTrainer{fakeTrainer: w.trainer}
	trainer.norm = func(step int) float64 {
		if step == 1 {
			return math.NaN()
		}
		return 1
	}
	events, err := runWith(t, w, trainer, eventLeftOut)
	if err != nil || len(events) != 1 || w.steps[0].LeftOut == 0 || w.steps[0].GradNorm != 1 {
		t.Errorf("%v, %v, %+v", err, events, w.steps)
	}
}

// A trainer that refuses every row costs the updates. After the allowed number
// of such steps the run ends with the keys that may be changed, and goes on with
// the same episodes when the cause is removed.
func TestTooManyIncompleteStepsEndTheRun(t *testing.T) {
	c := small(func(c *config.Config) { c.Run.Steps, c.Eval.Every, c.Trainer.MaxIncompleteSteps = 4, 0, 2 })
	w := newWorld(t, c)
	trainer := &refusingTrainer{fakeTrainer: w.trainer}
	trainer.refuse = func([]trainerbridge.Row) error { return userError("the gradient is not finite") }
	_, err := runWith(t, w, trainer, eventLeftOut)
	if err == nil || !strings.Contains(err.Error(), "step 3: the trainer refuses rows of this step, as of the 2 steps") ||
		!strings.Contains(err.Error(), "hint: the step is not committed; continue with other values of [optimizer]") {
		t.Fatalf("got %v", err)
	}
	if len(w.steps) != 2 || w.steps[1].Version != 0 || w.steps[1].Rows != 0 || w.steps[1].LeftOut == 0 {
		t.Errorf("steps %+v", w.steps)
	}
	sampled := len(w.backend.Calls())
	trainer.refuse = nil
	if _, err := runWith(t, w, trainer, eventLeftOut); err != nil {
		t.Fatal(err)
	}
	if w.steps[2].Version != 3 || w.steps[2].LeftOut != 0 || len(w.backend.Calls()) == sampled {
		t.Errorf("continued: %+v", w.steps[2])
	}
}

// Each restart is an event with its step and its moment. All moments share one
// budget.
func TestRestartsAtEveryMoment(t *testing.T) {
	f := func(moment string, wantStep int, dies func(call string) bool) {
		t.Helper()
		w := newWorld(t, small(func(c *config.Config) { c.Run.Steps, c.Eval.Every = 2, 0 }))
		died := false
		w.trainer.fail = func(call string) error {
			if !died && dies(call) {
				died = true
				return fmt.Errorf("gone: %w", trainerbridge.ErrUnavailable)
			}
			return nil
		}
		events, err := runWith(t, w, w.trainer, "trainer restart")
		want := fmt.Sprintf("%d: %s: gone: trainer is not available", wantStep, moment)
		if err != nil || len(events) != 1 || events[0] != want {
			t.Errorf("%s: %v, events %q, want %q", moment, err, events, want)
		}
	}
	f("restore", 1, func(call string) bool { return call == "restore 0" })
	f("train", 2, func(call string) bool { return call == "export 2" })
	f("train", 1, func(call string) bool { return call == "forward_backward" })

	w := newWorld(t, small())
	w.trainer.fail = func(call string) error {
		if strings.HasPrefix(call, "restore") {
			return trainerbridge.ErrUnavailable
		}
		return nil
	}
	events, err := runWith(t, w, w.trainer, "trainer restart")
	if err == nil || len(events) != w.config.Trainer.Restarts ||
		!strings.Contains(err.Error(), "restore: the trainer was given up after 3 restarts within 30m0s") {
		t.Errorf("%v, events %q", err, events)
	}
}

// A trainer that dies while a server is opened with its tokenizer is started
// again, and the server is opened again.
func TestTheTrainerMayDieBeforeTheRun(t *testing.T) {
	w, led := newWorld(t, small()), newLedger(t)
	loop := &Loop{Config: w.config, Trainer: w.trainer, Ledger: led, RestartPause: 1}
	refused := errors.New("another model")
	for _, c := range []struct {
		first    error
		want     error
		restores int
	}{{trainerbridge.ErrUnavailable, nil, 1}, {refused, refused, 1}} {
		answers := []error{c.first, nil}
		err := loop.WithTrainer(t.Context(), "start of the server", func() error {
			err := answers[0]
			answers = answers[1:]
			return err
		})
		if !errors.Is(err, c.want) || w.trainer.count("restore") != c.restores {
			t.Errorf("%v: %v, restored %d times", c.first, err, w.trainer.count("restore"))
		}
	}
	events := eventsOf(t, led, "trainer restart")
	if len(events) != 1 || !strings.Contains(events[0], "start of the server: trainer is not available") {
		t.Errorf("events %q", events)
	}
	loop = &Loop{Config: w.config, Ledger: led} // nothing is trained
	err := loop.WithTrainer(t.Context(), "", func() error { return trainerbridge.ErrUnavailable })
	if !errors.Is(err, trainerbridge.ErrUnavailable) {
		t.Error(err)
	}
}

// Servers of several replicas ask for scores at the same time. A trainer that
// died meanwhile is restored once.
func TestCanaryOfSeveralReplicas(t *testing.T) {
	w := newWorld(t, small())
	led := newLedger(t)
	loop := &Loop{Config: w.config, Trainer: w.trainer, Ledger: led, RestartPause: 1}
	w.trainer.policy.Script = samplertest.Say("a")
	dead := true // guarded by the recovery's lock: the race detector would see it
	w.trainer.fail = func(call string) error {
		switch {
		case strings.HasPrefix(call, "restore"):
			dead = false
		case dead:
			return trainerbridge.ErrUnavailable
		}
		return nil
	}
	score := loop.publishStage().score(0)
	errs := make(chan error)
	for range 4 {
		go func() {
			_, err := score(context.Background(), []int32{1, 2, 3})
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := w.trainer.count("restore"); n != 1 {
		t.Errorf("restored %d times", n)
	}
	if events := eventsOf(t, led, "trainer restart"); len(events) != 1 || !strings.Contains(events[0], "canary: ") {
		t.Errorf("events %q", events)
	}
}

func TestDivergenceGuard(t *testing.T) {
	c := small(func(c *config.Config) {
		c.Run.Steps, c.Eval.Every, c.Divergence.GradNorm, c.Divergence.Patience = 12, 0, 100, 2
		c.Loss.MiniBatch, c.Algorithm.Groups = 64, 1
	})
	f := func(patience int, norm func(step int) float64, wantSteps int, want string) *world {
		t.Helper()
		c := c
		c.Divergence.Patience = patience
		w := newWorld(t, c)
		events, err := runWith(t, w, &refusingTrainer{fakeTrainer: w.trainer, norm: norm}, "divergence")
		if got := fmt.Sprint(err); !strings.Contains(got, want) || len(w.steps) != wantSteps || len(events) == 0 {
			t.Errorf("after %d steps: %v, want %q after %d; events %q", len(w.steps), err, want, wantSteps, events)
		}
		return w
	}
	explodes := func(step int) float64 {
		if step > 7 {
			return 1000
		}
		return 1
	}
	w := f(2, explodes, 9, "the training diverges, for 2 steps in a row: the norm of the gradient is 1e+03, usually 1")
	want := []string{"the norm of the gradient is 1e+03, usually 1 (divergence.grad_norm)"}
	if !slices.Equal(w.steps[8].Diverging, want) {
		t.Errorf("step %+v", w.steps[8])
	}
	f(0, explodes, 12, "<nil>")
	f(2, func(step int) float64 { // one bad step is only a warning
		if step == 7 {
			return 1000
		}
		return 1
	}, 12, "<nil>")
}

func TestSignsOfDivergence(t *testing.T) {
	g := divergenceGuard{config: config.Divergence{GradNorm: 10, KL: 2, Entropy: 0.1}}
	f := func(stats trainerbridge.Stats, want string) {
		t.Helper()
		if got := strings.Join(g.signs(Update{Stats: stats, GradNorm: 1e9}, nil), "; "); got != want {
			t.Errorf("%v: %q, want %q", stats, got, want)
		}
	}
	f(trainerbridge.Stats{"tokens:sum": 10, "entropy:sum": 10}, "")
	f(trainerbridge.Stats{"tokens:sum": 10, "entropy:sum": 0.5},
		"the entropy is 0.05 nats per token (divergence.entropy)")
	f(trainerbridge.Stats{"tokens:sum": 10, "entropy:sum": 10, "approx_kl:sum": -25},
		"the KL divergence is 2.5 nats per token (divergence.kl)")
	f(trainerbridge.Stats{"tokens:sum": 10, "entropy:sum": 10, "kl_base:sum": 9, "kl_tokens:sum": 3},
		"the KL divergence is 3 nats per token (divergence.kl)")
}

// A trainer that dies while the rows that it refuses are looked for is restored, and
// the step is repeated.
func TestATrainerThatDiesInTheSearchIsRestored(t *testing.T) {
	c := small(func(c *config.Config) { c.Run.Steps, c.Eval.Every, c.Loss.KLSampled = 2, 0, 0 })
	probe := newWorld(t, c)
	if _, err := probe.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	bad := hasTokens([][]int32{probe.trainer.batches[0][1].Tokens})
	for kill := 2; kill < 5; kill++ {
		w := newWorld(t, c)
		trainer, calls := &refusingTrainer{fakeTrainer: w.trainer}, 0
		trainer.refuse = func(rows []trainerbridge.Row) error {
			if calls++; calls == kill {
				return fmt.Errorf("gone: %w", trainerbridge.ErrUnavailable)
			}
			if slices.ContainsFunc(rows, bad) {
				return userError("the loss is not finite")
			}
			return nil
		}
		l, done := w.open()
		l.Trainer = trainer
		_, err := l.Run(t.Context())
		if n := len(eventsOf(t, l.Ledger, "trainer restart")); err != nil || n != 1 || len(w.steps) != 2 {
			t.Errorf("killed at call %d: %d restarts, %d steps, %v", kill, n, len(w.steps), err)
		}
		done()
	}
}

// The limit of incomplete steps ends the run at once: a restart would not help.
func TestTheLimitOfIncompleteStepsNeedsNoRestart(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) {
		c.Run.Steps, c.Eval.Every, c.Loss.KLSampled = 1, 0, 0
		c.Trainer.MaxIncompleteSteps, c.Trainer.Restarts = 0, 10
	}))
	trainer := &refusingTrainer{fakeTrainer: w.trainer}
	trainer.refuse = func([]trainerbridge.Row) error {
		return fmt.Errorf("forward_backward: %w", &trainerbridge.ExitError{State: "signal: killed", OutOfMemory: true})
	}
	l, done := w.open()
	defer done()
	l.Trainer = trainer
	_, err := l.Run(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "step 1: the trainer refuses rows") {
		t.Errorf("the run ended with %v", err)
	}
	for _, e := range eventsOf(t, l.Ledger, "trainer restart") {
		if strings.HasPrefix(e, "leave out rows") {
			t.Errorf("a restart because of the limit: %s", e)
		}
	}
}
