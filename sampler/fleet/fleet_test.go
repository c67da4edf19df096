package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Server with the functions and adapters of a test. By default it is
// healthy and answers with the first id of the prompt.
type fake struct {
	Server   // nil: no test calls its other methods
	name     string
	health   func(context.Context) error
	complete func(context.Context, string, sampler.Request) (Answer, error)
	probe    func() error // nil: it answers
	tokenize func(text string) ([]int32, error)
	adapters map[string]string
}

func (f *fake) URL() string  { return f.name }
func (f *fake) Close() error { return nil }
func (f *fake) Probe(context.Context) (Probe, error) {
	if f.probe != nil {
		if err := f.probe(); err != nil {
			return Probe{}, err
		}
	}
	return Probe{Model: "base", Capabilities: sampler.Capabilities{
		Server: "fake", IDsIn: true, IDsOut: true, Logprobs: true, LogprobSpace: "raw", Adapters: "runtime",
		ContextLength: 100, VocabSize: 10,
	}}, nil
}

func (f *fake) Health(ctx context.Context) error {
	if f.health != nil {
		return f.health(ctx)
	}
	return nil
}
func (f *fake) Load(context.Context) (Load, error) { return Load{}, errors.ErrUnsupported }
func (f *fake) Adapters(context.Context) (map[string]string, error) {
	return f.adapters, nil
}
func (f *fake) Tokenize(_ context.Context, text string) ([]int32, error) {
	if f.tokenize != nil {
		return f.tokenize(text)
	}
	return nil, errors.ErrUnsupported
}
func (f *fake) LoadAdapter(context.Context, string, string) error { return nil }
func (f *fake) UnloadAdapter(context.Context, string) error       { return nil }
func (f *fake) Complete(ctx context.Context, model string, r sampler.Request) (Answer, error) {
	if f.complete != nil {
		return f.complete(ctx, model, r)
	}
	return firstID(model, r), nil
}

func firstID(model string, r sampler.Request) Answer {
	return Answer{Model: model, Prompt: len(r.Prompt), IDs: r.Prompt[:1], Logprobs: []float32{-1},
		Finish: sampler.FinishStop}
}

func canaryPrompt(context.Context) ([]int32, error) { return []int32{3, 4}, nil }

func open(t *testing.T, cfg Config, fakes ...*fake) (*Backend, sampler.Policy) {
	t.Helper()
	for _, f := range fakes {
		cfg.Servers = append(cfg.Servers, f)
	}
	cfg.CanaryPrompt = canaryPrompt
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Publish(t.Context(), sampler.Adapter{})
	if err != nil {
		t.Fatal(err)
	}
	return b, p
}

var request = sampler.Request{Prompt: []int32{5}, MaxTokens: 7, Temperature: 1}

// A request to a server that never answers is sent to another server after its
// deadline.
func TestARequestThatHangsIsSentToAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, model string, r sampler.Request) (Answer, error) {
			if r.MaxTokens == request.MaxTokens {
				<-ctx.Done()
				return Answer{}, context.Cause(ctx)
			}
			return firstID(model, r), nil
		}
		b, p := open(t, Config{RequestTimeout: time.Minute}, &fake{name: "a", complete: hangs}, &fake{name: "b"})
		began := time.Now()
		if _, err := b.Sample(t.Context(), p, request); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < time.Minute || took > 61*time.Second {
			t.Errorf("it took %v", took)
		}
		b.Close()
	})
}

// A slow request fails, but its server stays healthy if it answers others.
func TestASlowRequestDoesNotMarkTheServerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		f := &fake{name: "a", complete: func(ctx context.Context, model string, r sampler.Request) (Answer, error) {
			if r.MaxTokens == request.MaxTokens {
				close(slow)
				<-ctx.Done()
				return Answer{}, context.Cause(ctx)
			}
			return firstID(model, r), nil
		}}
		b, p := open(t, Config{RequestTimeout: time.Minute}, f)
		failed := make(chan error)
		go func() { _, err := b.Sample(t.Context(), p, request); failed <- err }()
		<-slow
		other := request
		other.MaxTokens = 1
		if _, err := b.Sample(t.Context(), p, other); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, errSlow) ||
			!strings.Contains(err.Error(), "raise sampler.timeout_seconds or lower sampler.concurrency") {
			t.Error(err)
		}
		if s := b.Stats(); s.Returns != 0 || s.Retries != 0 {
			t.Errorf("%+v", s)
		}
		b.Close()
	})
}

func TestTwoFailedHealthChecksMarkAReplicaDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		misses := 3
		f := &fake{name: "a", health: func(context.Context) error {
			if misses > 0 {
				misses--
				return ErrLost
			}
			return nil
		}}
		returned := make(chan string)
		b, p := open(t, Config{HealthInterval: time.Second, OnReturn: func(url string) { returned <- url }}, f)
		if url := <-returned; url != "a" || misses != 0 {
			t.Errorf("%s returned with %d failures left", url, misses)
		}
		if _, err := b.Sample(t.Context(), p, request); err != nil {
			t.Error(err)
		}
		b.Close()
	})
}

func TestRequestsFailIfAllReplicasAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alive := true
		dead := func(context.Context) error {
			if alive {
				return nil
			}
			return ErrLost
		}
		lost := func(_ context.Context, model string, r sampler.Request) (Answer, error) {
			if alive {
				return firstID(model, r), nil
			}
			return Answer{}, ErrLost
		}
		b, p := open(t, Config{Patience: time.Minute}, &fake{name: "a", health: dead, complete: lost},
			&fake{name: "b", health: dead, complete: lost})
		alive = false
		began := time.Now()
		_, err := b.Sample(t.Context(), p, request)
		if took := time.Since(began); !errors.Is(err, errAllDown) || took > 61*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		b.Close()
	})
}

func TestTheLimitFollowsTheServersQueue(t *testing.T) {
	b := &Backend{cfg: Config{MaxInFlight: 64}.withDefaults(), queue: newQueue(1, 64)}
	r := &replica{b: b, server: &fake{}, place: b.queue.Places()[0]}
	for range 64 {
		if _, err := b.queue.Acquire(t.Context(), admission.Request{}); err != nil {
			t.Fatal(err)
		}
	}
	var limits []int
	for _, l := range []Load{
		{Running: 16, Waiting: 48}, {Running: 16, Waiting: 8}, {Running: 16, Waiting: 0}, {Running: 1, Waiting: 5000},
	} {
		r.setLimit(l)
		_, limit := r.place.Load()
		limits = append(limits, limit)
	}
	if want := []int{24, 32, 40, 1}; !slices.Equal(limits, want) {
		t.Errorf("%v, want %v", limits, want)
	}
}
