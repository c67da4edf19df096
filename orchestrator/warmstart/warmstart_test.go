package warmstart

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/demos"
	"github.com/empo2/empo2/orchestrator/manifest"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// fakeTrainer has one weight. Every update moves it by the learning rate times a
// number that depends on the batch, so that its value shows what was trained in
// which order.
type fakeTrainer struct {
	dir      string
	weight   float64
	gradient float64
	calls    int
	failAt   int // number of the forward_backward that fails; 0: none
	failure  error
	refuses  func(rows []trainerbridge.Row) error // nil: nothing
	restored []int
	forwards []int // rows of each Forward
}

func (f *fakeTrainer) ForwardBackward(_ context.Context, rows []trainerbridge.Row, loss trainerbridge.Loss) (
	trainerbridge.Stats, [][]float32, error) {
	f.calls++
	if f.calls == f.failAt {
		return nil, nil, f.failure
	}
	if loss.Name != "cross_entropy" {
		return nil, nil, fmt.Errorf("loss %s", loss.Name)
	}
	if f.refuses != nil {
		if err := f.refuses(rows); err != nil {
			f.gradient = math.NaN() // it must not reach the weights
			return nil, nil, err
		}
	}
	sum := 0.0
	for _, r := range rows {
		if err := r.Check(); err != nil {
			return nil, nil, err
		}
		for i, token := range r.Tokens {
			if r.LossMask[i] {
				f.gradient += float64(r.ImportanceWeights[i]) * float64(token)
				sum += float64(r.ImportanceWeights[i])
			}
		}
	}
	return trainerbridge.Stats{"loss:sum": sum * f.weight}, nil, nil
}

func (f *fakeTrainer) OptimStep(_ context.Context, adam trainerbridge.Adam) (trainerbridge.Stats, error) {
	f.weight = 0.9*f.weight + adam.LearningRate*f.gradient
	f.gradient = 0
	return trainerbridge.Stats{"grad_norm:mean": 1}, nil
}

func (f *fakeTrainer) Forward(_ context.Context, rows []trainerbridge.Row) ([][]float32, error) {
	f.forwards = append(f.forwards, len(rows))
	if f.refuses != nil {
		if err := f.refuses(rows); err != nil {
			return nil, err
		}
	}
	var out [][]float32
	for _, r := range rows {
		out = append(out, slices.Repeat([]float32{-2}, len(r.Tokens)-1))
	}
	return out, nil
}

func (f *fakeTrainer) path(version int) string {
	return filepath.Join(f.dir, "checkpoints", fmt.Sprintf("%06d", version))
}

func (f *fakeTrainer) Save(_ context.Context, version int) error {
	if err := os.MkdirAll(f.path(version), 0o755); err != nil {
		return err
	}
	text := fmt.Sprint(math.Float64bits(f.weight))
	if err := os.WriteFile(filepath.Join(f.path(version), "weight"), []byte(text), 0o644); err != nil {
		return err
	}
	return manifest.Write(f.path(version), manifest.Checkpoint, nil)
}

func (f *fakeTrainer) Restore(_ context.Context, version int) error {
	f.restored = append(f.restored, version)
	f.weight, f.gradient = 1, 0
	if version == 0 {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(f.path(version), "weight"))
	if err != nil {
		return err
	}
	var bits uint64
	_, err = fmt.Sscan(string(text), &bits)
	f.weight = math.Float64frombits(bits)
	return err
}

func (f *fakeTrainer) Export(_ context.Context, version int) (trainerbridge.Exported, error) {
	files := map[string]string{"adapter": fmt.Sprint(f.weight)}
	return trainerbridge.Exported{Dir: fmt.Sprint(version), Files: files}, nil
}

// numbered returns n examples that differ in their trained token.
func numbered(n int) []Example {
	var all []Example
	for i := range n {
		all = append(all, Example{
			Rows: []rollout.Row{{
				Tokens: []int32{1, int32(10 * (i + 1))}, LossMask: []bool{false, true}, Logprobs: make([]float32, 2),
			}},
			Line: i + 1, Tokens: 2, Trained: 1, Longest: 2,
		})
	}
	return all
}

func newTraining(dir string, f *fakeTrainer) *Training {
	f.dir = dir
	return &Training{
		Config: Config{
			Steps: 12, Batch: 3, LearningRate: 0.01, Schedule: Cosine, WarmupSteps: 2, Holdout: 0.1, Seed: 4,
		},
		Trainer: f, Examples: numbered(11), Dir: dir, MaxIncomplete: 3,
		Budget: process.Budget{Restarts: 1, Window: time.Hour},
	}
}

var errCrash = fmt.Errorf("killed: %w", trainerbridge.ErrUnavailable)

// crash trains until the trainer dies at a forward_backward.
func crash(t *testing.T, training *Training) {
	t.Helper()
	training.Budget = process.Budget{}
	if _, err := training.Run(t.Context()); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
}

// A training that was killed after any step ends with the same adapter and history
// as one that was not.
func TestAResumedTrainingEqualsAnUninterruptedOne(t *testing.T) {
	whole, err := newTraining(t.TempDir(), &fakeTrainer{}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.History) != 13 || whole.Train != 9 || whole.Held != 2 || whole.History[12].HeldOut != 2 {
		t.Fatalf("%d and %d examples, history %+v", whole.Train, whole.Held, whole.History)
	}
	for at := 1; at <= 12; at++ {
		dir := t.TempDir()
		crash(t, newTraining(dir, &fakeTrainer{failAt: at, failure: errCrash}))
		f := &fakeTrainer{}
		again, err := newTraining(dir, f).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if f.restored[0] != at-1 || f.calls != 13-at {
			t.Errorf("crash at %d: continued from %v with %d updates", at, f.restored, f.calls)
		}
		if adapterOf(again) != adapterOf(whole) || !sameHistory(again.History, whole.History) {
			t.Errorf("crash at %d: adapter %+v, want %+v", at, again.Adapter, whole.Adapter)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "checkpoints", "*")); len(left) != keptCheckpoints {
			t.Errorf("%d checkpoints are left, want %d", len(left), keptCheckpoints)
		}
	}
}

func adapterOf(r Result) string { return r.Adapter.Files["adapter"] }

func sameHistory(a, b []Step) bool {
	return slices.EqualFunc(a, b, func(a, b Step) bool {
		a.Seconds, b.Seconds = 0, 0
		return a == b
	})
}

// A trainer that fails once is restarted from the newest checkpoint.
func TestAFailedTrainerIsRestored(t *testing.T) {
	whole, err := newTraining(t.TempDir(), &fakeTrainer{}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeTrainer{failAt: 5, failure: trainerbridge.ErrUnavailable}
	again, err := newTraining(t.TempDir(), f).Run(t.Context())
	if err != nil || adapterOf(again) != adapterOf(whole) || !slices.Equal(f.restored, []int{0, 4}) {
		t.Errorf("restored %v, adapter %+v, want %+v, %v", f.restored, again.Adapter, whole.Adapter, err)
	}
}

// Every epoch trains every example once.
func TestBatchesDealEveryExample(t *testing.T) {
	c := Config{Batch: 4, Seed: 1}
	f := func(n, batches int) {
		t.Helper()
		if got := c.perEpoch(n); got != batches {
			t.Fatalf("%d examples in %d batches, want %d", n, got, batches)
		}
		for epoch := range 3 {
			seen := make([]bool, n)
			for b := range batches {
				for _, i := range c.batch(1+epoch*batches+b, n) {
					if seen[i] {
						t.Errorf("example %d twice in epoch %d", i, epoch)
					}
					seen[i] = true
				}
			}
			if slices.Contains(seen, false) {
				t.Errorf("epoch %d left out an example of %d", epoch, n)
			}
		}
	}
	f(1, 1)
	f(4, 1)
	f(5, 2)
	f(17, 5)
	if slices.Equal(c.batch(1, 17), c.batch(6, 17)) {
		t.Error("two epochs have the same order")
	}
}

func TestLearningRate(t *testing.T) {
	f := func(schedule string, want ...float64) {
		t.Helper()
		c := Config{Steps: 7, LearningRate: 1, WarmupSteps: 2, Schedule: schedule}
		for i, w := range want {
			if got := c.learningRate(i + 1); math.Abs(got-w) > 1e-12 {
				t.Errorf("%s: step %d has the rate %v, want %v", schedule, i+1, got, w)
			}
		}
	}
	f(Constant, 0.5, 1, 1, 1, 1, 1, 1)
	f(Linear, 0.5, 1, 1, 0.775, 0.55, 0.325, 0.1)
	f(Cosine, 0.5, 1, 1, 0.1+0.45*(1+math.Sqrt2/2), 0.55, 0.1+0.45*(1-math.Sqrt2/2), 0.1)
}

func TestSplit(t *testing.T) {
	f := func(n int, share float64, held int) {
		t.Helper()
		a, b := split(numbered(n), share, 1)
		if len(b) != held || len(a) != n-held {
			t.Errorf("%d examples, share %v: %d held out, want %d", n, share, len(b), held)
		}
	}
	f(100, 0.05, 5)
	f(10, 0.05, 1)
	f(10, 0, 0)
	f(1, 0.5, 0)
}

// The tokens are those of an episode: prompts as the template renders them, replies
// with their end token. Only replies are trained, and only those with a weight.
func TestExampleHasTheTokensOfAnEpisode(t *testing.T) {
	tokenizer := samplertest.NewTokenizer("pull", " jade")
	template, err := chat.NewTemplate(t.Context(), chat.TemplateChatML, tokenizer, tokenizer, nil)
	if err != nil {
		t.Fatal(err)
	}
	zero := 0
	d := demos.Demonstration{Messages: []demos.Message{
		{Role: "system", Content: "S"}, {Role: "user", Content: "a<|im_end|>"},
		{Role: "assistant", Content: "pull jade", Weight: &zero},
		{Role: "user", Content: "b"}, {Role: "assistant", Content: "pull jade"},
	}}
	e, err := Tokenizer{Template: template}.Example(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(texts ...string) (ids []int32) {
		for _, text := range texts {
			switch text {
			case "<":
				ids = append(ids, samplertest.Start)
			case ">":
				ids = append(ids, samplertest.End)
			default:
				ids = append(ids, tokenizer.Encode(text)...)
			}
		}
		return ids
	}
	before := encode("<", "system\nS", ">", "\n", "<", "user\na<|im_end|>", ">", "\n", "<", "assistant\n",
		"pull jade", ">", "\n", "<", "user\nb", ">", "\n", "<", "assistant\n")
	reply := encode("pull jade", ">")
	if len(reply) != 3 || len(e.Rows) != 1 || !slices.Equal(e.Rows[0].Tokens, slices.Concat(before, reply)) {
		t.Fatalf("tokens %v\n   want %v + %v", e.Rows, before, reply)
	}
	want := slices.Concat(make([]bool, len(before)), []bool{true, true, true})
	if !slices.Equal(e.Rows[0].LossMask, want) || e.Trained != 3 || e.Tokens != len(want) || e.Longest != len(want) {
		t.Errorf("loss mask %v, counts %d %d %d", e.Rows[0].LossMask, e.Trained, e.Tokens, e.Longest)
	}
}

func TestRowsAverageOverTrainedTokens(t *testing.T) {
	sent := rows(numbered(4))
	for _, r := range sent {
		if err := r.Check(); err != nil || r.ImportanceWeights[1] != 0.25 {
			t.Errorf("weights %v, %v", r.ImportanceWeights, err)
		}
	}
	if loss, n := sumLoss(sent, [][]float32{{-1}, {-2}, {-3}, {-6}}); loss != 12 || n != 4 {
		t.Errorf("loss %v of %d tokens, want 12 of 4", loss, n)
	}
}

// The held-out examples are sent in batches, and every token counts the same.
func TestHeldOutLossIsSentInBatches(t *testing.T) {
	f := &fakeTrainer{}
	training := newTraining(t.TempDir(), f)
	training.held = numbered(7)
	loss, err := training.heldOut(t.Context(), 0)
	if err != nil || loss != 2 {
		t.Errorf("held-out loss %v, %v; want 2", loss, err)
	}
	if want := []int{3, 3, 1}; !slices.Equal(f.forwards, want) {
		t.Errorf("%v rows in the calls, want %v", f.forwards, want)
	}
}
