package orchestrator

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// If the server agrees with the trainer, nothing is corrected.
func TestMismatchIsMeasuredEveryStep(t *testing.T) {
	w := newWorld(t, small())
	if _, err := w.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.steps {
		if m.Rows > 0 && (m.Mismatch.Tokens == 0 || m.Mismatch.Max > 1e-6 || m.Mismatch.ESS < 0.999 || m.Corrected) {
			t.Errorf("step %d: %+v, corrected %t", m.Step, m.Mismatch, m.Corrected)
		}
	}
}

// If they differ, the rows get the trainer's log-probs, and every trained token
// its truncated importance weight. That includes off-policy rows.
func TestMismatchIsCorrected(t *testing.T) {
	f := func(skew float32, limit, weight float64) {
		t.Helper()
		w := newWorld(t, small(func(c *config.Config) { c.Loss.MismatchCap = limit; c.Run.Steps = 1 }))
		w.trainer.skew = skew
		l, done := w.open()
		defer done()
		if _, err := l.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		m := w.steps[0]
		if want := math.Abs(float64(skew)); math.Abs(m.Mismatch.Mean-want) > 1e-3 || m.Corrected != (limit > 0) {
			t.Errorf("skew %v: %+v, corrected %t", skew, m.Mismatch, m.Corrected)
		}
		trainedTokens := 0
		for _, r := range trained(w) {
			for k := range r.Tokens {
				if !r.Trains(k) {
					continue
				}
				trainedTokens++
				got := float32(1)
				if r.ImportanceWeights != nil {
					got = r.ImportanceWeights[k]
				}
				if math.Abs(float64(got)-weight) > 1e-3 {
					t.Fatalf("skew %v: weight %v at %d, want %v", skew, got, k, weight)
				}
			}
		}
		if trainedTokens == 0 {
			t.Error("nothing was trained")
		}
		var why string
		err := l.Ledger.DB().QueryRow("SELECT detail FROM events WHERE kind = 'mismatch'").Scan(&why)
		if err != nil || !strings.Contains(why, "differ from the trainer's by") {
			t.Errorf("skew %v: event %q, %v", skew, why, err)
		}
	}
	f(-0.2, 2, math.Exp(-0.2))
	f(-0.2, 0, 1)
	f(-5, 2, math.Exp(-5))
}

func TestImportanceWeightsAreTruncated(t *testing.T) {
	row := rollout.Row{
		Tokens: []int32{1, 2, 3}, LossMask: []bool{false, true, true}, Logprobs: []float32{0, -3, -1},
	}
	bare := rollout.Row{ // the same without tips
		Tokens: []int32{9, 2, 9, 3}, LossMask: []bool{false, true, false, true}, Logprobs: []float32{0, -3, 0, -1},
	}
	e := trainedEpisode{rows: []rollout.Row{bare}, sampled: []rollout.Row{row}}
	got, err := e.rescored([][]float32{{-1, -1.5}}, importance{mode: "token_truncate", high: 2})
	if err != nil {
		t.Fatal(err)
	}
	w := got.importanceWeights[0]
	if w[1] != 2 || math.Abs(float64(w[3])-math.Exp(-0.5)) > 1e-6 || w[0] != 0 || w[2] != 0 {
		t.Errorf("weights %v", w)
	}
	if l := got.rows[0].Logprobs; l[1] != -1 || l[3] != -1.5 || bare.Logprobs[1] != -3 {
		t.Errorf("log-probs %v; the stored row has %v", l, bare.Logprobs)
	}
	for name, scores := range map[string][][]float32{
		"too few": {{-1}}, "infinite": {{-1, float32(math.Inf(-1))}}, "NaN": {{-1, float32(math.NaN())}},
		"positive": {{-1, 1}},
	} {
		if _, err := e.rescored(scores, importance{mode: "token_truncate", high: 2}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	e.rows[0].LossMask = []bool{false, true, false, false}
	if _, err := e.rescored([][]float32{{-1, -1.5}}, importance{mode: "token_truncate", high: 2}); err == nil {
		t.Error("a sampled token that is in no trained row was accepted")
	}
}

// Rows without log-probs of the server get the trainer's, even if corrections
// are off.
func TestRowsWithoutLogprobsAreScored(t *testing.T) {
	row := rollout.Row{
		Tokens: []int32{1, 2}, LossMask: []bool{false, true}, Logprobs: []float32{0, 0}, WithoutLogprobs: true,
	}
	e := trainedEpisode{rows: []rollout.Row{row}, sampled: []rollout.Row{row}}
	got, err := e.rescored([][]float32{{-0.7}}, importance{mode: "token_truncate", high: 2})
	if err != nil || got.rows[0].Logprobs[1] != -0.7 || got.importanceWeights[0][1] != 1 ||
		got.rows[0].WithoutLogprobs {
		t.Errorf("%+v, %v", got, err)
	}
}

// An adaptation run fills the memory, shows tips to every episode, also those
// of evaluations, and trains nothing.
func TestAdaptationTrainsNothing(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Algorithm.Name = "adapt"; c.Run.Steps = 6 }))
	summary, err := w.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(w.trainer.calls) > 0 || summary.Version != 0 {
		t.Errorf("trained: %v, version %d", w.trainer.calls, summary.Version)
	}
	first, last := w.steps[0], w.steps[len(w.steps)-1]
	if first.Free.N != 0 || last.NewTips == 0 || last.Tips.TipsShown == 0 || last.Tips.Score <= first.Tips.Score {
		t.Errorf("first step %+v\nlast step %+v", first.Tips, last.Tips)
	}
	for _, e := range w.evals {
		if !e.Tips {
			t.Errorf("evaluation after step %d was made without tips", e.Step)
		}
	}
}

// A few tokens that differ by much count as much as many that differ slightly.
func TestSingleTokensFarOffAreCorrected(t *testing.T) {
	tolerance := demo().Loss.MismatchTolerance
	f := func(m Mismatch, want bool) {
		t.Helper()
		if m.large(tolerance) != want {
			t.Errorf("%+v: large is %t", m, m.large(tolerance))
		}
	}
	f(Mismatch{Mean: 1e-6, Max: 1e-4}, false)
	f(Mismatch{Mean: 9e-4, Max: 1.9}, true)
	f(Mismatch{Mean: 0.01, Max: 0.1}, true)
	f(Mismatch{Mean: 2, Max: 6}, true)
}

// An adaptation run works with a server of text that reports its context. The
// server keeps its own limits, and tips are written.
func TestAdaptationOnAServerOfText(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Algorithm.Name = "adapt"; c.Run.Steps = 2 }))
	l, done := w.open()
	defer done()
	l.Driver.ChatTemplate = nil
	l.Backend = textServer{w.backend}
	l.Driver.Backend = l.Backend
	if _, err := l.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if m := w.steps[1]; m.Failed > 0 || m.NewTips == 0 {
		t.Errorf("%+v", m)
	}
}

// textServer takes and gives text only.
type textServer struct{ sampler.Backend }

func (s textServer) Capabilities(context.Context) (sampler.Capabilities, error) {
	return sampler.Capabilities{Server: "text", ContextLength: 4096}, nil
}

func (s textServer) Sample(_ context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	if len(r.Prompt) > 0 || len(r.Messages) == 0 {
		return sampler.Completion{}, errors.New("ids for a server of text")
	}
	return sampler.Completion{Text: "at iron pull jade", Finish: sampler.FinishStop, Policy: p}, nil
}
