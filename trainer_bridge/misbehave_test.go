package trainerbridge

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator/jsonhttp/faultyhttp"
	"github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

// A misbehaving trainer is a fake trainer behind a proxy, and a client of it.
type misbehaving struct {
	fake   *fakeserver.Server
	proxy  *faultyhttp.Proxy
	client *Client
}

// behindProxy lets the trainer misbehave in answers to one operation.
func behindProxy(t *testing.T, op string) misbehaving {
	t.Helper()
	s := fakeserver.New(t, fakeserver.Options{})
	p := faultyhttp.Open(t, s.URL, func(path string) bool { return path == "/api/v1/"+op })
	c := dialFake(t, &fakeserver.Server{URL: p.URL}, "")
	if err := c.SaveWeights(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	return misbehaving{s, p, c}
}

// call makes one call while the trainer misbehaves once. The error must name the trainer
// and a remedy.
func (m misbehaving) call(t *testing.T, fault faultyhttp.Fault, f func(context.Context) error) error {
	t.Helper()
	late := errors.New("the trainer took too long")
	limit := 20 * time.Second
	if fault.Hangs {
		limit = 50 * time.Millisecond
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, late)
	defer cancel()
	before := m.proxy.Served()
	m.proxy.Once(fault)
	err := f(ctx)
	switch {
	case m.proxy.Served() != before+1:
		t.Errorf("%d requests met the fault", m.proxy.Served()-before)
	case err == nil && fault.Refused:
		t.Error("the error in the answer was not seen")
	case err == nil:
	case fault.Hangs && !errors.Is(err, late):
		t.Errorf("%v, want %v", err, late)
	case !strings.Contains(err.Error(), "trainer"), strings.Contains(err.Error(), "json: cannot"):
		t.Errorf("the error is not plain: %v", err)
	case fault.Hinted && !strings.Contains(err.Error(), "hint: "):
		t.Errorf("the error has no hint: %v", err)
	}
	return err
}

// A misbehaving trainer never makes a step without being asked, or twice: the client
// knows the weights, or says that it does not.
func TestMisbehavingTrainersMakeOneStep(t *testing.T) {
	for _, op := range []string{"optim_step", "retrieve_future"} {
		m := behindProxy(t, op)
		answers := []faultyhttp.Fault{faultyhttp.Missing("request_id"), faultyhttp.Set("request_id", 3)}
		if op == "retrieve_future" {
			answers = []faultyhttp.Fault{faultyhttp.Missing("metrics"), faultyhttp.Set("metrics", 3),
				faultyhttp.Set("metrics", nil), faultyhttp.Set("type", "try_again"), faultyhttp.Set("error", "no")}
		}
		faults := append(faultyhttp.Faults(), answers...)
		for _, fault := range faults {
			t.Run(op+" "+fault.Name, func(t *testing.T) { m.step(t, fault) })
		}
		t.Logf("%d misbehaving trainers", len(faults))
	}
}

func (m misbehaving) step(t *testing.T, fault faultyhttp.Fault) {
	before := m.fake.State().Steps
	err := m.call(t, fault, func(ctx context.Context) error {
		_, err := m.client.OptimStep(ctx, adam)
		return err
	})
	if err == nil {
		if steps := m.fake.State().Steps - before; steps != 1 {
			t.Errorf("%d steps, want 1", steps)
		}
		return
	}
	_, next := m.client.OptimStep(t.Context(), adam)
	if steps := m.fake.State().Steps - before; steps > 1 || steps == 1 && next != nil && !errors.Is(next, ErrUncertain) {
		t.Errorf("%d steps after %v, then %v", steps, err, next)
	}
	if err := m.client.LoadWeights(t.Context(), "good", true); err != nil {
		t.Errorf("return to the checkpoint: %v", err)
	}
}

func TestMisbehavingTrainersGiveNoWrongLogprobs(t *testing.T) {
	const outputs = "loss_fn_outputs"
	answers := []faultyhttp.Fault{
		faultyhttp.Missing(outputs), faultyhttp.Shorter(outputs), faultyhttp.Longer(outputs),
		faultyhttp.Set(outputs, map[string]any{}), faultyhttp.Set(outputs+".0", nil),
		faultyhttp.Missing(outputs + ".0.logprobs"), faultyhttp.Missing(outputs + ".0.logprobs.data"),
		faultyhttp.Shorter(outputs + ".0.logprobs.data"), faultyhttp.Longer(outputs + ".0.logprobs.data"),
		faultyhttp.Set(outputs+".0.logprobs.data.0", nil), faultyhttp.Set(outputs+".0.logprobs.data.0", 0.5),
		faultyhttp.Set(outputs+".0.logprobs.data.0", "NaN"), faultyhttp.Set(outputs+".0.logprobs.data.0", -1e39),
		faultyhttp.Set(outputs+".0.logprobs.data", 3), faultyhttp.Set("error", "no"), faultyhttp.Set("error", 3),
		faultyhttp.Set("type", "try_again"), faultyhttp.Set("metrics", 3),
	}
	m := behindProxy(t, "retrieve_future")
	rows := []Row{newRow(1, 2, 3), newRow(4, 5)}
	want, err := m.client.Forward(t.Context(), rows)
	if err != nil {
		t.Fatal(err)
	}
	faults := append(faultyhttp.Faults(), answers...)
	for _, fault := range faults {
		t.Run(fault.Name, func(t *testing.T) {
			var got [][]float32
			err := m.call(t, fault, func(ctx context.Context) (err error) {
				got, err = m.client.Forward(ctx, rows)
				return err
			})
			if diff := cmp.Diff(want, got); err == nil && diff != "" {
				t.Errorf("the faulty answer was accepted: %s", diff)
			}
			if got, err = m.client.Forward(t.Context(), rows); err != nil || !cmp.Equal(want, got) {
				t.Errorf("the next call: %v, %v", got, err)
			}
		})
	}
	t.Logf("%d misbehaving trainers", len(faults))
}

// An optimizer step without its norm is refused, and the weights are unknown after it.
func TestAnOptimizerStepWithoutItsNorm(t *testing.T) {
	for _, fault := range []faultyhttp.Fault{faultyhttp.Missing("metrics"), faultyhttp.Set("metrics", nil),
		faultyhttp.Set("metrics", map[string]any{}), faultyhttp.Set("metrics", map[string]any{"loss:sum": 1})} {
		m := behindProxy(t, "retrieve_future")
		err := m.call(t, fault, func(ctx context.Context) error {
			_, err := m.client.OptimStep(ctx, adam)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "no grad_norm:mean among the metrics") {
			t.Errorf("%s: %v", fault.Name, err)
		}
		if _, err := m.client.OptimStep(t.Context(), adam); !errors.Is(err, ErrUncertain) {
			t.Errorf("%s, then: %v", fault.Name, err)
		}
	}
}
