package trainerbridge_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

// skyRL is a Remote for a fake SkyRL server, which also acts as the companion.
func skyRL(t *testing.T, options fakeserver.Options) (*fakeserver.Server, *trainerbridge.Remote) {
	t.Helper()
	options.SkyRL = true
	server := fakeserver.New(t, options)
	config := client
	config.URL = server.URL
	r := &trainerbridge.Remote{Companion: announce(t, server), Client: config}
	t.Cleanup(func() { r.Close() })
	return server, r
}

func restored(t *testing.T, r *trainerbridge.Remote) *trainerbridge.Remote {
	t.Helper()
	if err := r.Restore(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return r
}

// trained makes a pass, so that the adapter is no longer the untrained one.
func trained(t *testing.T, r *trainerbridge.Remote) {
	t.Helper()
	_, _, err := r.ForwardBackward(t.Context(), []trainerbridge.Row{onPolicy(1, 10, 11, 12)}, withoutFloor)
	if err != nil {
		t.Fatal(err)
	}
}

// onPolicy is a row with one advantage, at ratio 1.
func onPolicy(advantage float32, tokens ...int32) trainerbridge.Row {
	n := len(tokens)
	r := trainerbridge.Row{Tokens: tokens, LossMask: make([]bool, n), Logprobs: make([]float32, n),
		Advantages: make([]float32, n)}
	copy(r.Logprobs[1:], fakeserver.Logprobs(0, tokens))
	for i := 1; i < n; i++ {
		r.LossMask[i], r.Advantages[i] = true, advantage
	}
	return r
}

var withoutFloor = trainerbridge.Loss{Name: "empo2", Config: map[string]float64{"logprob_floor": -1e30}}

// The fake's gradient is the mean over rows of the mean of −A, or the sum. The norm that the optimizer sees must be that
// of the sum, −4·1 + 3·0.5, whatever the server's scale and the number of passes.
func TestMeansOfSkyRLAreUndone(t *testing.T) {
	for _, scale := range []fakeserver.Scale{fakeserver.Means, fakeserver.Sums} {
		_, r := skyRL(t, fakeserver.Options{Scale: scale})
		restored(t, r)
		for _, passes := range [][][]trainerbridge.Row{
			{{onPolicy(1, 10, 11, 12, 13, 14), onPolicy(-0.5, 20, 21, 10, 23)}},
			{{onPolicy(1, 10, 11, 12, 13, 14)}, {onPolicy(-0.5, 20, 21, 10, 23)}},
		} {
			for _, rows := range passes {
				stats, _, err := r.ForwardBackward(t.Context(), rows, withoutFloor)
				if err != nil {
					t.Fatal(err)
				}
				if stats.KnowsEntropy() {
					t.Error("the entropy is known, but SkyRL does not report it")
				}
			}
			stats, err := r.OptimStep(t.Context(), trainerbridge.Adam{LearningRate: 0})
			if err != nil {
				t.Fatal(err)
			}
			if got := stats.GradNorm(); math.Abs(got-2.5) > 1e-5 {
				t.Errorf("scale %d, %d passes: the norm of the gradient is %v; want 2.5", scale, len(passes), got)
			}
			restored(t, r)
		}
	}
}

// A scale that is neither a sum nor a mean cannot be undone.
func TestUnknownScaleOfSkyRLIsRefused(t *testing.T) {
	server, r := skyRL(t, fakeserver.Options{Scale: fakeserver.RowMeans})
	err := r.Restore(t.Context(), 0)
	if err == nil || !strings.Contains(err.Error(), "how the trainer scales gradients is not known") {
		t.Errorf("got %v", err)
	}
	if server.Count("unload_model") != 1 {
		t.Error("the adapter of the measurement was not removed")
	}
}

// The backward pass is made in OptimStep, since it needs the number of rows. Its time must count.
func TestSecondsOfSkyRLHaveTheBackwardPass(t *testing.T) {
	_, r := skyRL(t, fakeserver.Options{})
	restored(t, r)
	passes, _, err := r.ForwardBackward(t.Context(), []trainerbridge.Row{onPolicy(1, 10, 11, 12)}, withoutFloor)
	if err != nil {
		t.Fatal(err)
	}
	step, err := r.OptimStep(t.Context(), trainerbridge.Adam{})
	if err != nil {
		t.Fatal(err)
	}
	want := passes.Seconds() + step.Seconds()
	passes.TakeStep(step)
	if step.Seconds() <= 0 || passes.Seconds() != want {
		t.Errorf("%v seconds, of which %v in the optimizer step; want %v", passes.Seconds(), step.Seconds(), want)
	}
}

// SkyRL executes a repeated request again, so that a lost answer must end in a new adapter.
func TestRequestsOfSkyRLAreNotRepeated(t *testing.T) {
	train := func(r *trainerbridge.Remote) error {
		_, _, err := r.ForwardBackward(t.Context(), []trainerbridge.Row{onPolicy(1, 10, 11, 12)}, withoutFloor)
		if err == nil {
			_, err = r.OptimStep(t.Context(), trainerbridge.Adam{LearningRate: 0})
		}
		return err
	}
	save := func(r *trainerbridge.Remote) error { return r.Save(t.Context(), 1) }
	f := func(op string, before, act func(r *trainerbridge.Remote) error) {
		t.Helper()
		var armed atomic.Bool
		server, r := skyRL(t, fakeserver.Options{Fault: func(c fakeserver.Call) fakeserver.Fault {
			return fakeserver.Fault{Lose: c.Op == op && armed.CompareAndSwap(true, false)}
		}})
		if err := before(restored(t, r)); err != nil {
			t.Fatal(op, err)
		}
		sent := server.Count(op)
		armed.Store(true)
		if err := act(r); !trainerbridge.Restartable(err) {
			t.Errorf("%s: %v; want an error that a restore removes", op, err)
		}
		if n := server.Count(op) - sent; n != 1 {
			t.Errorf("%s was sent %d times", op, n)
		}
		created := server.Count("create_model")
		restored(t, r)
		if n := server.Count("create_model") - created; n != 1 {
			t.Errorf("%s: %d adapters were created; want a new one", op, n)
		}
	}
	f("forward_backward", func(*trainerbridge.Remote) error { return nil }, train)
	f("optim_step", func(*trainerbridge.Remote) error { return nil }, train)
	f("create_model", train, func(r *trainerbridge.Remote) error { return r.Restore(t.Context(), 0) })
	f("save_weights", train, save)
	f("save_weights_for_sampler", train, save)
	f("load_weights", save, func(r *trainerbridge.Remote) error { return r.Restore(t.Context(), 1) })
}

// A model whose creation is not confirmed is removed, if the trainer has named it.
func TestUnconfirmedModelIsRemoved(t *testing.T) {
	var armed atomic.Bool
	server, r := skyRL(t, fakeserver.Options{Fault: func(c fakeserver.Call) (f fakeserver.Fault) {
		if c.Op == "retrieve_future" && armed.CompareAndSwap(true, false) {
			f.Status = 404
		}
		return f
	}})
	restored(t, r)
	trained(t, r)
	armed.Store(true)
	if err := r.Restore(t.Context(), 0); !errors.Is(err, trainerbridge.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	calls := server.Calls()
	if last := calls[len(calls)-1]; last.Op != "unload_model" || !bytes.Contains(last.Body, []byte(`"session:train:2"`)) {
		t.Errorf("the last request is %s %s; want the third model to be unloaded", last.Op, last.Body)
	}
}

// A fault of the address itself must not turn SkyRL into the hosted service, which sums gradients.
func TestSkyRLIsNotTakenForTheService(t *testing.T) {
	f := func(faults int32, fault fakeserver.Fault, want string) {
		t.Helper()
		var left atomic.Int32
		left.Store(faults)
		server := fakeserver.New(t, fakeserver.Options{SkyRL: true, Fault: func(c fakeserver.Call) fakeserver.Fault {
			if c.Op == "/" && left.Add(-1) >= 0 {
				return fault
			}
			return fakeserver.Fault{}
		}})
		config := client
		config.URL = server.URL
		found, err := trainerbridge.Detect(t.Context(), config)
		got := found.Server
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || err == nil && got != want {
			t.Errorf("%+v, %d times: %q; want %q", fault, faults, got, want)
		}
	}
	f(1, fakeserver.Fault{Lose: true}, "SkyRL")
	f(2, fakeserver.Fault{Status: 503}, "SkyRL")
	f(9, fakeserver.Fault{Lose: true}, "after 4 attempts")
	f(9, fakeserver.Fault{Status: 502}, "502")
	f(9, fakeserver.Fault{Status: 403}, "refused by the trainer")
	f(9, fakeserver.Fault{Status: 404}, "the Tinker service")
}

// Another server at the address would train at another scale.
func TestAnotherServerIsRefused(t *testing.T) {
	var other atomic.Bool
	_, r := skyRL(t, fakeserver.Options{Fault: func(c fakeserver.Call) (f fakeserver.Fault) {
		if c.Op == "/" && other.Load() {
			f.Status = 404
		}
		return f
	}})
	restored(t, r)
	trained(t, r)
	other.Store(true)
	err := r.Restore(t.Context(), 0)
	if err == nil || !strings.Contains(err.Error(), "where this run has found SkyRL") || trainerbridge.Restartable(err) {
		t.Errorf("got %v", err)
	}
}
