package trainerbridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

// dialFake connects to a fake trainer, with short deadlines.
func dialFake(t *testing.T, s *fakeserver.Server, token string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), ClientConfig{
		URL: s.URL, Token: token, BaseModel: "fake", Rank: 8, Alpha: 16, Seed: 1,
		Timeout: 30 * time.Second, AnswerTimeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// newRow trains every token but the first.
func newRow(tokens ...int32) Row {
	n := len(tokens)
	r := Row{Tokens: tokens, LossMask: make([]bool, n), Logprobs: make([]float32, n), Advantages: make([]float32, n)}
	for i := 1; i < n; i++ {
		r.LossMask[i], r.Logprobs[i], r.Advantages[i] = true, -1, 0.5
	}
	return r
}

// once lets a fault happen the first time that an op arrives.
func once(op string, fault fakeserver.Fault) func(fakeserver.Call) fakeserver.Fault {
	var only sync.Once
	return func(c fakeserver.Call) (f fakeserver.Fault) {
		if c.Op == op {
			only.Do(func() { f = fault })
		}
		return f
	}
}

func always(op string, fault fakeserver.Fault) func(fakeserver.Call) fakeserver.Fault {
	return func(c fakeserver.Call) fakeserver.Fault {
		if c.Op == op {
			return fault
		}
		return fakeserver.Fault{}
	}
}

var (
	empo2Loss = Loss{Name: "empo2", Config: map[string]float64{"clip_low_threshold": 0.8, "clip_high_threshold": 1.3}}
	adam      = Adam{LearningRate: 1e-3, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8}
)

func TestTrainingChangesThePolicyAndSurvivesARestart(t *testing.T) {
	ctx, root := t.Context(), t.TempDir()
	s := fakeserver.New(t, fakeserver.Options{Root: root, Token: "secret"})
	c := dialFake(t, s, "secret")
	rows := []Row{newRow(1, 2, 3), newRow(4, 5)}

	before, err := c.Forward(ctx, rows)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]float32{fakeserver.Logprobs(0, rows[0].Tokens), fakeserver.Logprobs(0, rows[1].Tokens)}
	if diff := cmp.Diff(want, before); diff != "" {
		t.Errorf("log-probs before training (-want +got):\n%s", diff)
	}
	stats, logprobs, err := c.ForwardBackward(ctx, rows, empo2Loss)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, logprobs); diff != "" || stats.Tokens() != 3 {
		t.Errorf("ForwardBackward: %v tokens, log-probs differ from Forward's:\n%s", stats.Tokens(), diff)
	}
	if stats, err = c.OptimStep(ctx, adam); err != nil || stats.GradNorm() == 0 {
		t.Fatalf("OptimStep = %v, %v", stats, err)
	}
	if err := c.SaveWeights(ctx, "000001"); err != nil {
		t.Fatal(err)
	}
	export, err := c.SaveForSampler(ctx, "v000001")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(export.Dir, "manifest.json")); err != nil {
		t.Error(err)
	}
	after, err := c.Forward(ctx, rows)
	if err != nil || cmp.Equal(before, after) {
		t.Fatalf("training changed nothing (%v)", err)
	}
	s.Close()

	again := fakeserver.New(t, fakeserver.Options{Root: root})
	c = dialFake(t, again, "")
	if err := c.LoadWeights(ctx, "000001", true); err != nil {
		t.Fatal(err)
	}
	restored, err := c.Forward(ctx, rows)
	if diff := cmp.Diff(after, restored); err != nil || diff != "" {
		t.Errorf("restored log-probs (%v) (-want +got):\n%s", err, diff)
	}
}

func TestCallsAreNumberedInOrder(t *testing.T) {
	s := fakeserver.New(t, fakeserver.Options{})
	c := dialFake(t, s, "")
	for range 2 {
		if _, _, err := c.ForwardBackward(t.Context(), []Row{newRow(1, 2)}, empo2Loss); err != nil {
			t.Fatal(err)
		}
		if _, err := c.OptimStep(t.Context(), adam); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, call := range s.Calls() {
		if call.Seq > 0 {
			got = append(got, fmt.Sprintf("%d %s", call.Seq, call.Op))
		}
	}
	want := []string{"1 forward_backward", "2 optim_step", "3 forward_backward", "4 optim_step"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLostExchangeIsRepeatedButNotExecutedTwice(t *testing.T) {
	faults := map[string]fakeserver.Fault{
		"response lost after the work": {Lose: true},
		"internal error":               {Status: 500, Message: "oops"},
		"busy":                         {Status: 429, Message: "later"},
	}
	for name, fault := range faults {
		for _, op := range []string{"optim_step", "retrieve_future"} {
			t.Run(name+" "+op, func(t *testing.T) {
				s := fakeserver.New(t, fakeserver.Options{Fault: once(op, fault)})
				c := dialFake(t, s, "")
				for range 2 {
					if _, err := c.OptimStep(t.Context(), adam); err != nil {
						t.Fatal(err)
					}
				}
				if got := s.State().Steps; got != 2 {
					t.Errorf("%d optimizer steps were made, want 2", got)
				}
				var bodies []string
				for _, call := range s.Calls() {
					if call.Seq == 1 {
						bodies = append(bodies, string(call.Body))
					}
				}
				if len(bodies) == 2 && bodies[0] != bodies[1] {
					t.Errorf("the repeated request differs:\n%s\n%s", bodies[0], bodies[1])
				}
			})
		}
	}
}

func TestRefusals(t *testing.T) {
	f := func(name string, fault fakeserver.Fault, want RequestError) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			s := fakeserver.New(t, fakeserver.Options{Fault: once("save_weights", fault)})
			c := dialFake(t, s, "")
			err := c.SaveWeights(t.Context(), "x")
			var got *RequestError
			if !errors.As(err, &got) || *got != want {
				t.Fatalf("got %#v (%v), want %#v", got, err, want)
			}
			if err := c.SaveWeights(t.Context(), "y"); err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
	f("user", fakeserver.Fault{Category: "user", Message: "bad name"},
		RequestError{Op: "save_weights", Category: CategoryUser, Message: "bad name"})
	f("server", fakeserver.Fault{Category: "server", Message: "no space"},
		RequestError{Op: "save_weights", Category: CategoryServer, Message: "no space"})
	f("unknown", fakeserver.Fault{Category: "other", Message: "?"},
		RequestError{Op: "save_weights", Category: CategoryUnknown, Message: "?"})
	f("before it was accepted", fakeserver.Fault{Status: 422, Message: "no path"},
		RequestError{Op: "save_weights", Category: CategoryUser, Message: "no path", Status: 422})
}

func TestWrongTokenHasAHint(t *testing.T) {
	s := fakeserver.New(t, fakeserver.Options{Token: "right"})
	_, err := Dial(t.Context(), ClientConfig{URL: s.URL, Token: "wrong", Rank: 1})
	if err == nil || !strings.Contains(err.Error(), "hint: the bearer token") {
		t.Fatal(err)
	}
}

// Errors do not contain the token, even if the trainer repeats it.
func TestTokenIsNotInErrors(t *testing.T) {
	f := func(fault fakeserver.Fault) {
		t.Helper()
		fault.Message = "no session for right-token"
		s := fakeserver.New(t, fakeserver.Options{Token: "right-token", Fault: once("save_weights", fault)})
		err := dialFake(t, s, "right-token").SaveWeights(t.Context(), "x")
		if err == nil || !strings.Contains(err.Error(), "no session for [key]") {
			t.Errorf("%+v: %v", fault, err)
		}
	}
	f(fakeserver.Fault{Status: 422})
	f(fakeserver.Fault{Category: "server"})
}

func TestFailedUpdateMustBeRestored(t *testing.T) {
	f := func(op string, do func(c *Client) error) {
		t.Helper()
		t.Run(op, func(t *testing.T) {
			t.Helper()
			s := fakeserver.New(t, fakeserver.Options{Fault: once(op, fakeserver.Fault{Category: "server", Message: "nan"})})
			c := dialFake(t, s, "")
			if err := c.SaveWeights(t.Context(), "000000"); err != nil {
				t.Fatal(err)
			}
			if do(c) == nil {
				t.Fatal("the call succeeded despite the fault")
			}
			if err := do(c); !errors.Is(err, ErrUncertain) {
				t.Fatalf("got %v, want ErrUncertain", err)
			}
			if err := c.LoadWeights(t.Context(), "000000", true); err != nil {
				t.Fatal(err)
			}
			if err := do(c); err != nil {
				t.Fatal(err)
			}
		})
	}
	f("optim_step", func(c *Client) error {
		_, err := c.OptimStep(t.Context(), adam)
		return err
	})
	f("forward_backward", func(c *Client) error {
		_, _, err := c.ForwardBackward(t.Context(), []Row{newRow(1, 2)}, empo2Loss)
		return err
	})
}

func TestManyRowsAreSentInSeveralRequests(t *testing.T) {
	s := fakeserver.New(t, fakeserver.Options{})
	c := dialFake(t, s, "")
	rows := make([]Row, 2500)
	tokens := 0.0
	for i := range rows {
		rows[i] = newRow(int32(i), int32(i+1), int32(2*i))
		tokens += 2
	}
	stats, logprobs, err := c.ForwardBackward(t.Context(), rows, empo2Loss)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Count("forward_backward"); got != 3 {
		t.Errorf("%d requests, want 3", got)
	}
	if stats.Tokens() != tokens || len(logprobs) != len(rows) {
		t.Errorf("%v tokens and %d log-prob arrays, want %v and %d", stats.Tokens(), len(logprobs), tokens, len(rows))
	}
	for i, r := range rows {
		if diff := cmp.Diff(fakeserver.Logprobs(0, r.Tokens), logprobs[i]); diff != "" {
			t.Fatalf("row %d (-want +got):\n%s", i, diff)
		}
	}
	if got := s.State().Pending; got != len(rows) {
		t.Errorf("%d rows were trained, want %d", got, len(rows))
	}
}

func TestGoldenRequest(t *testing.T) {
	r := Row{
		Tokens: []int32{1, 17, 300, 2}, LossMask: []bool{false, false, true, true},
		ImportanceWeights: []float32{0, 0, 1, 0.75}, Logprobs: []float32{0, 0, -0.25, -1.5},
		Advantages: []float32{0, 0, 0.125, -0.5}, KL: []float32{0, 0, 0.0625, 0.0625},
		Entropy: []float32{0, 0, 0.03125, 0.03125}, FloorExempt: true,
	}
	request := forwardBackwardRequest{ModelID: "session:train:0", SeqID: 7, Input: lossInput{
		Data: []datum{newDatum(r, "empo2")},
		Loss: Loss{Name: "empo2", Config: map[string]float64{
			"clip_high_threshold": 1.3, "clip_low_threshold": 0.8, "logprob_floor": -5}},
	}}
	got, err := json.MarshalIndent(request, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("trainer", "testdata", "wire_golden.json"), append(got, '\n'))
}
