package orchestrator

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// overlapped is a world whose steps are sampled ahead. Each version has other log-probs.
// The trainer begins to train a step only when a request of the last step was made that may
// be sampled meanwhile, as on a machine whose trainer is slower than its server.
type overlapped struct {
	*world
	mu      sync.Mutex
	asked   map[int64]chan struct{} // closed with the first request of a step
	closed  map[int64]bool
	retired map[int]chan struct{} // closed when the version is to be retired
	request func(sampler.Policy, sampler.Request)
}

func newOverlapped(t *testing.T, change ...func(*config.Config)) *overlapped {
	t.Helper()
	c := small(func(c *config.Config) { c.Rollout.MaxStaleness, c.Run.Steps = 1, 4 })
	for _, f := range change {
		f(&c)
	}
	w := &overlapped{world: newWorld(t, c), asked: map[int64]chan struct{}{}, closed: map[int64]bool{},
		retired: map[int]chan struct{}{}}
	for n := range int64(c.Run.Steps + 2) {
		w.asked[n], w.retired[int(n)] = make(chan struct{}), make(chan struct{})
	}
	tokenizer := w.backend.Tokenizer
	script := player(tokenizer)
	w.backend.Policy.Script = func(version int, prompt []int32) []samplertest.Choice {
		choices := script(version, prompt)
		for i := range choices {
			choices[i].Weight *= 1 + 0.3*float64((version+i)%3)
		}
		return choices
	}
	w.trainer.policy = w.backend.Policy
	w.backend.BeforeSample = func(_ context.Context, p sampler.Policy, r sampler.Request) error {
		w.see(r)
		if w.request != nil {
			w.request(p, r)
		}
		return nil
	}
	w.trainer.fail = func(call string) error {
		last := int64(w.trainer.version) + 1 + int64(c.Rollout.MaxStaleness)
		if call == "forward_backward" && last <= int64(c.Run.Steps) {
			<-w.asked[last]
		}
		return nil
	}
	return w
}

// see notes the step of a request.
func (w *overlapped) see(r sampler.Request) {
	var step int64
	if _, err := fmt.Sscanf(r.Session, "s%d-", &step); err != nil || r.Temperature != w.config.Rollout.Temperature {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed[step] {
		w.closed[step] = true
		close(w.asked[step])
	}
}

// retireHook tells when a version is to be retired.
type retireHook struct {
	sampler.Backend
	before func(version int)
}

func (b retireHook) Retire(ctx context.Context, p sampler.Policy) error {
	b.before(p.Version)
	return b.Backend.Retire(ctx, p)
}

func (w *overlapped) run(ctx context.Context) error {
	l, done := w.open()
	defer done()
	l.Backend = retireHook{w.backend, func(version int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.closed[int64(-version)] {
			w.closed[int64(-version)] = true
			close(w.retired[version])
		}
	}}
	_, err := l.Run(ctx)
	return err
}

// trajectories returns the stored training episodes of a step.
func (w *world) trajectories(step int64) []rollout.Trajectory {
	w.t.Helper()
	l, done := w.open()
	defer done()
	stored, err := l.Ledger.Episodes(context.Background(), step)
	if err != nil {
		w.t.Fatal(err)
	}
	out := make([]rollout.Trajectory, len(stored))
	for i, e := range stored {
		if out[i], err = EpisodeOf(e); err != nil {
			w.t.Fatal(err)
		}
	}
	return out
}

// Step N+1 is sampled while step N is trained. The trainer gets the log-probs of the
// versions that sampled, and the mismatch compares with these versions.
func TestAStepIsSampledWhileTheOneBeforeIsTrained(t *testing.T) {
	w := newOverlapped(t)
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.steps) != 4 || w.steps[3].Version != 4 || !slices.Equal(w.backend.Served(), []int{0, 4}) {
		t.Fatalf("%d steps, serves %v", len(w.steps), w.backend.Served())
	}
	answered := map[uint64][]float32{} // log-probs by the seed of the request
	for _, c := range w.backend.Calls() {
		answered[c.Request.Seed] = c.Completion.Logprobs
	}
	for step, m := range w.steps {
		s := m.Overlap.Staleness
		if s.Max > 1 || s.Dropped > 0 || step > 0 && s.Mean == 0 {
			t.Errorf("step %d: %+v", m.Step, s)
		}
		if m.Mismatch.Tokens == 0 || m.Mismatch.Max > 1e-6 || m.Corrected {
			t.Errorf("step %d: mismatch %+v: it compares with another version than the one that sampled", m.Step, m.Mismatch)
		}
		if s := m.Overlap.Sampling; s == nil || *s <= 0 || *s > m.Seconds.Total+1e-3 {
			t.Errorf("step %d: sampled for %v of %g s", m.Step, s, m.Seconds.Total)
		}
		for _, e := range w.trajectories(m.Step) {
			last := len(e.Turns) - 1
			row, want := e.RowsWithTips[len(e.RowsWithTips)-1], answered[sampler.Seed(e.Seed, uint64(last))]
			if got := row.Logprobs[len(row.Logprobs)-len(want):]; !slices.Equal(want, got) {
				t.Fatalf("step %d: a row has the log-probs %v, the server answered %v", m.Step, got, want)
			}
		}
	}
	known := map[string]bool{}
	for step := range int64(4) {
		for _, e := range w.trajectories(step + 1) {
			for _, r := range slices.Concat(e.RowsWithTips, e.RowsWithoutTips) {
				known[fmt.Sprint(r.Tokens, r.Logprobs)] = true
			}
		}
	}
	for _, r := range trained(w.world) {
		if slices.Contains(r.LossMask, true) && !known[fmt.Sprint(r.Tokens, r.Logprobs)] {
			t.Fatal("the trainer got other log-probs than the episode has")
		}
	}
}

// An episode moves on to a version that is committed while it runs. The version before
// is retired when its last request has ended.
func TestVersionsAreMixedWithinAnEpisode(t *testing.T) {
	w := newOverlapped(t)
	var once sync.Once
	w.request = func(p sampler.Policy, r sampler.Request) {
		if r.Session == "s3-g0-e0" && p.Version == 1 {
			once.Do(func() { <-w.retired[1] }) // version 2 is committed
		}
	}
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := w.trajectories(3)[0]
	var versions []int
	for _, turn := range e.Turns {
		versions = append(versions, turn.Version)
	}
	if e.Policy.Version != 1 || !slices.Equal(versions, append([]int{1}, slices.Repeat([]int{2}, len(versions)-1)...)) ||
		len(versions) < 2 {
		t.Errorf("policy %d, turns of versions %v", e.Policy.Version, versions)
	}
	if m := w.steps[2]; m.Overlap.Staleness.Max != 1 || m.Overlap.Staleness.Mean >= 1 || m.Mismatch.Max > 1e-6 {
		t.Errorf("%+v, mismatch %+v", m.Overlap.Staleness, m.Mismatch)
	}
}

// A step that is sampled ahead sees the tips of the step before it, which is not committed
// yet. If the versions do not differ, a run that samples ahead plays the same episodes as
// one that samples and trains in turn.
func TestAStepSeesTheTipsOfTheStepBefore(t *testing.T) {
	for n := 1; n <= 2; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) { comparedWithInTurn(t, n) })
	}
}

func comparedWithInTurn(t *testing.T, staleness int) {
	w := newOverlapped(t, func(c *config.Config) { c.Rollout.MaxStaleness = staleness })
	inTurn := newOverlapped(t, func(c *config.Config) { c.Rollout.MaxStaleness = 0 })
	for _, w := range []*overlapped{w, inTurn} {
		w.backend.Policy.Script = player(w.backend.Tokenizer)
		w.trainer.policy = w.backend.Policy
	}
	inTurn.trainer.fail = nil
	if err := errors.Join(w.run(t.Context()), inTurn.run(t.Context())); err != nil {
		t.Fatal(err)
	}
	newest := map[int64]int64{} // author's step by the step that was shown the tip
	for step := int64(1); step <= 4; step++ {
		got, want := w.trajectories(step), inTurn.trajectories(step)
		for i, e := range got {
			for n, turn := range e.Turns {
				for _, tip := range turn.Tips {
					var by int64
					if _, err := fmt.Sscanf(tip.Author, "%d/", &by); err != nil {
						t.Fatal(err)
					}
					newest[step] = max(newest[step], by)
				}
				of := want[i].Turns[n]
				if !slices.Equal(turn.IDs, of.IDs) || !slices.Equal(turn.Tips, of.Tips) || turn.Similar != of.Similar {
					t.Fatalf("step %d, episode %d/%d, turn %d: %+v, in turn %+v", step, e.Group, e.Episode, n, turn, of)
				}
			}
		}
	}
	if diff := cmp.Diff(map[int64]int64{2: 1, 3: 2, 4: 3}, newest); diff != "" {
		t.Error(diff)
	}
	if w.steps[2].Overlap.Staleness.Max != staleness || inTurn.steps[2].Overlap != (Overlap{}) {
		t.Errorf("%+v, in turn %+v", w.steps[2].Overlap, inTurn.steps[2].Overlap)
	}
}

// A run that samples ahead continues after a stop at any request: no finished episode is
// sampled again, every step is trained once from the version before it, plans are the
// same, and memory and weights are those of one step.
func TestAnOverlappedRunContinues(t *testing.T) {
	whole := newOverlapped(t)
	if err := whole.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	total, plans := len(whole.backend.Calls()), whole.plans()
	for _, after := range []int{1, total / 4, total / 2, total * 3 / 4, total - 3} {
		w := newOverlapped(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		stop, n := errors.New("stopped"), after
		w.request = func(sampler.Policy, sampler.Request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if n--; n == 0 {
				cancel(stop)
			}
		}
		trainer := w.trainer.fail
		w.trainer.fail = func(call string) error { // the request that it waits for may never come
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return trainer(call)
		}
		context.AfterFunc(ctx, func() {
			for step := range int64(6) {
				w.see(sampler.Request{Session: fmt.Sprintf("s%d-", step), Temperature: 1})
			}
		})
		if err := w.run(ctx); !errors.Is(err, stop) && !errors.Is(err, context.Canceled) { // the database knows no cause
			t.Fatalf("stopped at request %d: %v", after, err)
		}
		w.request, w.trainer.fail = nil, nil
		finished, before := w.finishedEpisodes(), len(w.backend.Calls())
		if after > total/3 && len(finished) == 0 {
			t.Fatalf("stopped after %d of %d calls: no episode is in the ledger", after, total)
		}
		if err := w.run(t.Context()); err != nil {
			t.Fatalf("continuing after %d calls: %v", after, err)
		}
		for _, c := range w.backend.Calls()[before:] {
			isTurn := !strings.Contains(w.backend.LastUser(c.Request.Prompt), "Write one tip")
			if isTurn && finished[c.Request.Seed] {
				t.Fatalf("stopped after %d of %d calls: a turn of a finished episode was sampled again", after, total)
			}
		}
		if diff := cmp.Diff(plans, w.plans()); diff != "" {
			t.Errorf("stopped after %d of %d calls: other plans\n%s", after, total, diff)
		}
		if len(w.steps) != 4 || w.steps[3].Version != 4 {
			t.Errorf("stopped after %d of %d calls: %d steps", after, total, len(w.steps))
		}
		for _, m := range w.steps {
			if m.Overlap.Staleness.Max > 1 || m.Overlap.Staleness.Dropped > 0 || m.Mismatch.Max > 1e-6 {
				t.Errorf("stopped after %d of %d calls: step %d: %+v, %+v", after, total, m.Step, m.Overlap, m.Mismatch)
			}
		}
		w.verify()
	}
}

// If a step was begun beside it, an interrupted step does not get another episode in place
// of one that failed, nor a tip in place of one that was not written: the later episodes
// have seen the memory without it.
func TestAStepStaysAsLaterEpisodesHaveSeenIt(t *testing.T) {
	t.Run("episode", func(t *testing.T) {
		w := interruptedAfterAFailure(t, func(r sampler.Request) bool { return r.SessionEnd != nil })
		if m := w.steps[0]; m.Failed != 1 || m.Free.N+m.Tips.N != 31 || len(w.trajectories(1)) != 31 {
			t.Errorf("step 1 has %d failed of %d", m.Failed, m.Failed+m.Free.N+m.Tips.N)
		}
	})
	t.Run("tip", func(t *testing.T) {
		w := interruptedAfterAFailure(t, func(r sampler.Request) bool { return r.SessionEnd == nil })
		if m := w.steps[0]; m.Failed != 0 || m.Free.N+m.Tips.N != 32 || m.NewTips != 31 {
			t.Errorf("step 1: %d failed, %d tips", m.Failed, m.NewTips)
		}
	})
}

// interruptedAfterAFailure fails a request of the first episode, stops when step 2 is
// sampled beside step 1, and continues. All tips that were shown are of those who wrote them.
func interruptedAfterAFailure(t *testing.T, fails func(sampler.Request) bool) *overlapped {
	t.Helper()
	w := newOverlapped(t, func(c *config.Config) { c.Rollout.Retries = 0 })
	stop := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	w.backend.BeforeSample = func(_ context.Context, _ sampler.Policy, r sampler.Request) error {
		w.see(r)
		if r.Session == "s1-g0-e0" && fails(r) && ctx.Err() == nil {
			return errors.New("out of order")
		}
		return nil
	}
	w.trainer.fail = func(call string) error {
		if call == "forward_backward" {
			<-w.asked[2]
			cancel(stop)
			return stop
		}
		return nil
	}
	if err := w.run(ctx); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	w.trainer.fail = nil
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.verify()
	w.checkAuthors()
	return w
}

// checkAuthors compares the tips that were shown with those that are stored.
func (w *world) checkAuthors() {
	w.t.Helper()
	var shown []prompt.Tip
	compared := 0
	for step := range int64(w.config.Run.Steps) {
		for _, e := range w.trajectories(step + 1) {
			for _, turn := range e.Turns {
				shown = append(shown, turn.Tips...)
			}
		}
	}
	l, done := w.open()
	defer done()
	const query = "SELECT step||'/'||group_index||'/'||episode FROM memory_tips WHERE id = ?"
	for _, tip := range shown {
		var author string
		err := l.Ledger.DB().QueryRow(query, tip.ID).Scan(&author)
		switch {
		case errors.Is(err, sql.ErrNoRows): // others have replaced it
		case err != nil || author != tip.Author:
			w.t.Fatalf("tip %d of %s was shown; its author is %s, %v", tip.ID, tip.Author, author, err)
		default:
			compared++
		}
	}
	if compared == 0 {
		w.t.Error("no tip was compared")
	}
}

// plans returns the plans of all steps without the versions, which depend on time.
func (w *world) plans() []Plan {
	w.t.Helper()
	l, done := w.open()
	defer done()
	out := make([]Plan, w.config.Run.Steps)
	for i := range out {
		text, err := l.Ledger.Plan(context.Background(), int64(i)+1)
		if err == nil {
			err = json.Unmarshal(text, &out[i])
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out[i].Version = 0
	}
	return out
}

// verify checks the whole folder.
func (w *world) verify() {
	w.t.Helper()
	r, err := ledger.Verify(context.Background(), w.dir)
	if err != nil || len(r.Problems) > 0 {
		w.t.Errorf("%v: %+v", err, r)
	}
}

// Groups with a turn that is too old are dropped whole and counted: here a run goes on
// that is no longer allowed to train episodes that it has sampled ahead.
func TestGroupsThatAreTooOldAreDropped(t *testing.T) {
	w := newOverlapped(t, func(c *config.Config) { c.Rollout.MaxStaleness = 2 })
	stop := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	w.trainer.fail = func(call string) error { // step 3 is sampled ahead from version 0
		if call == "forward_backward" {
			<-w.asked[3]
			cancel(stop)
			return stop
		}
		return nil
	}
	if err := w.run(ctx); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	w.verify() // two steps are not committed
	w.trainer.fail, w.config.Rollout.MaxStaleness = nil, 0
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := w.steps[1]
	if s := second.Overlap.Staleness; s.Dropped != second.Groups+s.Dropped || s.Dropped != w.config.Algorithm.Groups {
		t.Errorf("step 2 was sampled from version 0 and trained from version %d: %+v", second.Version, s)
	}
	if server, _, ok := second.Idle(); !ok || server != 1-second.Seconds.Sample/second.Seconds.Total {
		t.Errorf("step 2, in turn: the server was idle for %g of the step %+v", server, second.Seconds)
	}
	if second.Version != 1 || second.Rows != 0 || second.Free.N+second.Tips.N != 32 {
		t.Errorf("the dropped step: %+v", second)
	}
	if fourth := w.steps[3]; fourth.Overlap != (Overlap{}) || fourth.Version != 4 {
		t.Errorf("step 4 is in turn again: %+v", fourth.Overlap)
	}
	l, done := w.open()
	defer done()
	text, err := l.Ledger.LastEvent(t.Context(), eventStale)
	if err != nil || !strings.Contains(text, "max_staleness is 0") {
		t.Errorf("event %q, %v", text, err)
	}
}

// Evaluations have the server for themselves, and use the committed version.
func TestEvaluationsAreAlone(t *testing.T) {
	w := newOverlapped(t, func(c *config.Config) { c.Eval.Every, c.Eval.Temperature = 1, 0.5 })
	w.trainer.fail = nil
	training := map[string]<-chan struct{}{} // closed when the episode has ended
	w.request = func(p sampler.Policy, r sampler.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if r.SessionEnd == nil { // a tip
			return
		}
		if r.Temperature != w.config.Eval.Temperature {
			training[r.Session] = r.SessionEnd
			return
		}
		var step int
		if _, err := fmt.Sscanf(r.Session, "s%d-", &step); err != nil || p.Version != step {
			t.Errorf("an evaluation of step %d by version %d, %v", step, p.Version, err)
		}
		for session, end := range training {
			select {
			case <-end:
			default:
				t.Errorf("an evaluation of step %d beside %s", step, session)
			}
		}
	}
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.evals) != 6 {
		t.Errorf("%d evaluations", len(w.evals))
	}
}

// Without a memory nothing else changes.
func TestGRPOSamplesAhead(t *testing.T) {
	w := newOverlapped(t, func(c *config.Config) { c.Algorithm.Name, c.Eval.Every = "grpo", 0 })
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last := w.steps[3]; last.Version != 4 || last.NewTips != 0 || last.Overlap.Staleness.Mean == 0 {
		t.Errorf("%+v", last)
	}
}

// An error while a step is sampled ahead ends the run after the step before it was
// committed.
func TestAnErrorAheadWaitsForTheCommit(t *testing.T) {
	w := newOverlapped(t)
	w.backend.BeforeSample = func(_ context.Context, p sampler.Policy, r sampler.Request) error {
		w.see(r)
		if strings.HasPrefix(r.Session, "s2-") {
			return errors.New("out of order")
		}
		return nil
	}
	err := w.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "step 2: ") || len(w.steps) != 1 {
		t.Errorf("%d steps, %v", len(w.steps), err)
	}
}

// A log-prob that the trainer must compute is computed by the version that sampled: where
// the server has none, and of off-policy tokens without tips.
func TestLogprobsOfTheTrainerAreThoseOfTheSamplingVersion(t *testing.T) {
	f := func(name string, retokenized bool, rows func(rollout.Trajectory) []rollout.Row, of string) {
		t.Run(name, func(t *testing.T) {
			w := newOverlapped(t, func(c *config.Config) { c.Eval.Every, c.Loss.OffPolicyLogprobs = 0, of })
			l, done := w.open()
			l.Driver.Retokenized = retokenized
			_, err := l.Run(t.Context())
			done()
			if err != nil {
				t.Fatal(err)
			}
			w.compareFirstLogprobs(rows)
		})
	}
	f("unknown", true, func(e rollout.Trajectory) []rollout.Row { return e.RowsWithTips }, "tips")
	f("without tips", false, func(e rollout.Trajectory) []rollout.Row { return e.RowsWithoutTips }, "no_tips")
}

// compareFirstLogprobs compares the log-prob of the first sampled token of trained rows
// with that of the version that sampled it.
func (w *overlapped) compareFirstLogprobs(rows func(rollout.Trajectory) []rollout.Row) {
	w.t.Helper()
	want := map[string]float32{}
	for step := range int64(4) {
		for _, e := range w.trajectories(step + 1) {
			for _, r := range rows(e) {
				at := slices.Index(r.LossMask, true)
				want[fmt.Sprint(r.Tokens)] = w.backend.Policy.Score(e.Turns[0].Version, r.Tokens)[at-1]
			}
		}
	}
	checked := 0
	for _, r := range trained(w.world) {
		at := slices.Index(r.LossMask, true)
		logprob, ok := want[fmt.Sprint(r.Tokens)]
		if at < 0 || !ok {
			continue
		}
		checked++
		if math.Abs(float64(r.Logprobs[at]-logprob)) > 1e-6 {
			w.t.Fatalf("log-prob %g, under the version that sampled it is %g", r.Logprobs[at], logprob)
		}
	}
	if checked == 0 {
		w.t.Error("no row was compared")
	}
}
