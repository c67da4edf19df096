package samplertest

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp/faultyhttp"
	"github.com/empo2/empo2/sampler"
)

// A MisbehavingFixture is a backend whose server can be made to misbehave.
type MisbehavingFixture struct {
	Backend sampler.Backend // closed by the caller
	// Proxy returns the proxy in front of the server's completions. A backend that starts
	// its server again has a new one.
	Proxy   func() *faultyhttp.Proxy
	Request sampler.Request
	// Server is in every error: the server's URL, or its name.
	Server string
	// Answers are faults of the content of an answer.
	Answers []faultyhttp.Fault
}

// RunMisbehaving makes a server misbehave in every way of [faultyhttp.Faults] and of the
// fixture. The backend must repeat the request and return the right completion, or
// return an error that names the server. The next request must succeed.
func RunMisbehaving(t *testing.T, f MisbehavingFixture) {
	p, err := f.Backend.Publish(t.Context(), sampler.Adapter{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := f.Backend.Sample(t.Context(), p, f.Request)
	if err != nil {
		t.Fatal(err)
	}
	faults := append(faultyhttp.Faults(), f.Answers...)
	answered := 0
	for _, fault := range faults {
		t.Run(fault.Name, func(t *testing.T) {
			if misbehave(t, f, fault, want) {
				answered++
			}
		})
	}
	t.Logf("%d misbehaving servers: %d answers were right in the end, %d were refused",
		len(faults), answered, len(faults)-answered)
}

// misbehave reports whether the request was answered in the end.
func misbehave(t *testing.T, f MisbehavingFixture, fault faultyhttp.Fault, want sampler.Completion) bool {
	late := errors.New("the server took too long")
	limit := 20 * time.Second
	if fault.Hangs {
		limit = 50 * time.Millisecond
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, late)
	defer cancel()
	proxy := f.Proxy()
	before := proxy.Served()
	proxy.Once(fault)
	c, err := f.Backend.Sample(ctx, want.Policy, f.Request)
	if n := proxy.Served() - before; n != 1 {
		t.Fatalf("%d requests met the fault", n)
	}
	checkOutcome(t, f, fault, c, want, err, late)
	if next, err := f.Backend.Sample(t.Context(), want.Policy, f.Request); err != nil || !sameCompletion(next, want) {
		t.Errorf("the next request: %+v, %v", next, err)
	}
	return err == nil
}

func checkOutcome(
	t *testing.T, f MisbehavingFixture, fault faultyhttp.Fault, got, want sampler.Completion, err, late error,
) {
	switch {
	case err == nil && !sameCompletion(got, want):
		t.Errorf("the faulty answer was accepted: %+v, want %+v", got, want)
	case err == nil && fault.Refused:
		t.Error("the error in the answer was not seen")
	case err == nil:
	case fault.Hangs:
		if !errors.Is(err, late) {
			t.Errorf("%v, want %v", err, late)
		}
	case !strings.Contains(err.Error(), f.Server):
		t.Errorf("the error does not name %s: %v", f.Server, err)
	case fault.Hinted && !strings.Contains(err.Error(), "hint: "):
		t.Errorf("the error has no hint: %v", err)
	case len(err.Error()) > 2000 || strings.Contains(err.Error(), "json: cannot"):
		t.Errorf("the error is not plain: %.3000v", err)
	}
}

// sameCompletion compares completions. A log-prob that the server did not give is NaN:
// its token is not trained.
func sameCompletion(a, b sampler.Completion) bool {
	sameLogprobs := slices.EqualFunc(a.Logprobs, b.Logprobs, func(x, y float32) bool {
		return x == y || math.IsNaN(float64(x))
	})
	return a.Text == b.Text && a.Finish == b.Finish && a.Policy == b.Policy && slices.Equal(a.IDs, b.IDs) && sameLogprobs
}
