package fleet

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/sampler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Server that has only what a test gives it; it is well and writes
// the prompt's first id.
type fake struct {
	name     string
	health   func(context.Context) error
	complete func(context.Context, string, sampler.Request) (Answer, error)
	adapters map[string]string
}

func (f *fake) URL() string  { return f.name }
func (f *fake) Close() error { return nil }
func (f *fake) Probe(context.Context) (Probe, error) {
	return Probe{Model: "base", Capabilities: sampler.Capabilities{
		Server: "fake", IDsIn: true, IDsOut: true, Logprobs: true, LogprobSpace: "raw", Adapters: "runtime", ContextLength: 100, VocabSize: 10,
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
func (f *fake) LoadAdapter(context.Context, string, string) error { return nil }
func (f *fake) UnloadAdapter(context.Context, string) error       { return nil }
func (f *fake) Complete(ctx context.Context, model string, r sampler.Request) (Answer, error) {
	if f.complete != nil {
		return f.complete(ctx, model, r)
	}
	return writes(model, r), nil
}

func writes(model string, r sampler.Request) Answer {
	return Answer{Model: model, Prompt: len(r.Prompt), IDs: r.Prompt[:1], Logprobs: []float32{-1}, Finish: sampler.FinishStop}
}

func check(context.Context) ([]int32, error) { return []int32{3, 4}, nil }

func open(t *testing.T, cfg Config, fakes ...*fake) (*Backend, sampler.Policy) {
	t.Helper()
	for _, f := range fakes {
		cfg.Servers = append(cfg.Servers, f)
	}
	cfg.Check = check
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

// A server that accepts and never answers costs its deadline, and the request
// is answered by another.
func TestAHangCostsItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, model string, r sampler.Request) (Answer, error) {
			if r.MaxTokens == request.MaxTokens {
				<-ctx.Done()
				return Answer{}, context.Cause(ctx)
			}
			return writes(model, r), nil
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

// A slow request at a server that answers others is its own error.
func TestASlowRequestDoesNotDisgraceTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		f := &fake{name: "a", complete: func(ctx context.Context, model string, r sampler.Request) (Answer, error) {
			if r.MaxTokens == request.MaxTokens {
				close(slow)
				<-ctx.Done()
				return Answer{}, context.Cause(ctx)
			}
			return writes(model, r), nil
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
		if err := <-failed; !errors.Is(err, errSlow) || !strings.Contains(err.Error(), "raise sampler.timeout_seconds or lower sampler.concurrency") {
			t.Error(err)
		}
		if s := b.Stats(); s.Returns != 0 || s.Retries != 0 {
			t.Errorf("%+v", s)
		}
		b.Close()
	})
}

func TestHealthMissedTwiceTakesAReplicaOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		misses := 3
		f := &fake{name: "a", health: func(context.Context) error {
			if misses > 0 {
				misses--
				return ErrLost
			}
			return nil
		}}
		back := make(chan string)
		b, p := open(t, Config{HealthInterval: time.Second, OnReturn: func(url string) { back <- url }}, f)
		if url := <-back; url != "a" || misses != 0 {
			t.Errorf("%s after %d misses were left", url, misses)
		}
		if _, err := b.Sample(t.Context(), p, request); err != nil {
			t.Error(err)
		}
		b.Close()
	})
}

func TestAllDeadIsAnErrorWithinThePatience(t *testing.T) {
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
				return writes(model, r), nil
			}
			return Answer{}, ErrLost
		}
		b, p := open(t, Config{Patience: time.Minute}, &fake{name: "a", health: dead, complete: lost}, &fake{name: "b", health: dead, complete: lost})
		alive = false
		began := time.Now()
		_, err := b.Sample(t.Context(), p, request)
		if took := time.Since(began); !errors.Is(err, errAllDown) || took > 61*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		b.Close()
	})
}

// However requests come and go, no replica gets more than its limit, none is
// lost, and who waits is served in order.
func TestAdmissionNeverExceedsTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &Backend{cfg: Config{MaxInFlight: 4}.withDefaults(), changed: make(chan struct{})}
		for i := range 3 {
			b.replicas = append(b.replicas, &replica{b: b, server: &fake{name: strconv.Itoa(i)}, limit: rapid.IntRange(1, 4).Draw(t, "limit")})
		}
		var held []*replica
		var line []*waiter
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				w := &waiter{strconv.Itoa(rapid.IntRange(0, 3).Draw(t, "session")), nil, make(chan *replica, 1)}
				line = append(line, w)
				b.waiting = append(b.waiting, w)
				b.dispatch()
			case 2:
				if len(held) > 0 {
					b.release(held[0])
					held = held[1:]
				}
			case 3:
				r := b.replicas[rapid.IntRange(0, 2).Draw(t, "replica")]
				r.set([]state{up, down}[rapid.IntRange(0, 1).Draw(t, "state")], errors.New("drawn"))
			}
			for len(line) > 0 {
				select {
				case r := <-line[0].got:
					held = append(held, r)
					line = line[1:]
					continue
				default:
				}
				break
			}
			counts := map[*replica]int{}
			for _, r := range held {
				counts[r]++
			}
			for _, r := range b.replicas {
				if r.inflight != counts[r] || r.inflight > r.limit {
					t.Fatalf("%d in flight of %d, counted %d", r.inflight, r.limit, counts[r])
				}
				if r.state == up && r.inflight < r.limit && len(line) > 0 {
					t.Fatalf("%d wait although a replica is free", len(line))
				}
			}
		}
	})
}

func TestLeastInFlightUnlessThePrefixIsElsewhere(t *testing.T) {
	b := &Backend{cfg: Config{MaxInFlight: 99}.withDefaults(), changed: make(chan struct{})}
	for i := range 3 {
		b.replicas = append(b.replicas, &replica{b: b, server: &fake{name: strconv.Itoa(i)}, limit: 99, inflight: 2 - i})
	}
	own, least := b.replicas[0], b.replicas[2]
	f := func(name string, w waiter, want *replica) {
		t.Helper()
		if got := b.pick(&w); got != want {
			t.Errorf("%s: %s, want %s", name, got.server.URL(), want.server.URL())
		}
	}
	b.sessions.put("s", own)
	f("no session", waiter{}, least)
	f("another session", waiter{session: "t"}, least)
	f("its session", waiter{session: "s"}, own)
	f("lost there", waiter{session: "s", tried: map[*replica]bool{own: true}}, least)
	f("lost at the least busy", waiter{tried: map[*replica]bool{least: true}}, b.replicas[1])
	own.inflight = 20
	f("much busier", waiter{session: "s"}, least)
	own.inflight, own.state = 0, down
	f("down", waiter{session: "s"}, least)
}

func TestSessionsAreForgottenInTheEnd(t *testing.T) {
	var s sessions
	r := &replica{}
	for i := range 3 * maxSessions {
		s.put(strconv.Itoa(i), r)
	}
	if len(s.recent)+len(s.older) > 2*maxSessions || s.get("0") != nil || s.get(strconv.Itoa(3*maxSessions-1)) != r {
		t.Errorf("%d and %d", len(s.recent), len(s.older))
	}
}

func TestAdmissionFollowsTheServersQueue(t *testing.T) {
	b := &Backend{cfg: Config{MaxInFlight: 64}.withDefaults(), changed: make(chan struct{})}
	r := &replica{b: b, server: &fake{}, limit: 64, inflight: 64}
	b.replicas = []*replica{r}
	var limits []int
	for _, l := range []Load{{Running: 16, Waiting: 48}, {Running: 16, Waiting: 8}, {Running: 16, Waiting: 0}, {Running: 1, Waiting: 5000}} {
		r.admit(l)
		limits = append(limits, r.limit)
	}
	if want := []int{24, 32, 40, 1}; !slices.Equal(limits, want) {
		t.Errorf("%v, want %v", limits, want)
	}
}
