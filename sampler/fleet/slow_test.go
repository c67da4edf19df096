package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
)

// answersAfter answers after a time. canaries are answered at once.
func answersAfter(d, answered *atomic.Int64) func(context.Context, string, sampler.Request) (Answer, error) {
	return func(ctx context.Context, model string, r sampler.Request) (Answer, error) {
		if r.MaxTokens == canaryTokens {
			return firstID(model, r), nil
		}
		select {
		case <-time.After(time.Duration(d.Load())):
			answered.Add(1)
			return firstID(model, r), nil
		case <-ctx.Done():
			return Answer{}, context.Cause(ctx)
		}
	}
}

// fleetOf opens a fleet whose servers answer after their times.
func fleetOf(t *testing.T, cfg Config, times ...time.Duration) (
	b *Backend, p sampler.Policy, delays, answered []*atomic.Int64) {
	t.Helper()
	var fakes []*fake
	for i, d := range times {
		delays, answered = append(delays, &atomic.Int64{}), append(answered, &atomic.Int64{})
		delays[i].Store(int64(d))
		fakes = append(fakes, &fake{name: fmt.Sprint("server", i), complete: answersAfter(delays[i], answered[i])})
	}
	b, p = open(t, cfg, fakes...)
	return b, p, delays, answered
}

// playEpisodes sends the turns of episodes, one after another for each episode.
func playEpisodes(t *testing.T, b *Backend, p sampler.Policy, episodes, turns int) {
	t.Helper()
	var group errgroup.Group
	for e := range episodes {
		group.Go(func() error {
			r := request
			r.Session = fmt.Sprint("episode", e)
			for range turns {
				c, err := b.Sample(t.Context(), p, r)
				if err != nil || len(c.IDs) != 1 || c.IDs[0] != r.Prompt[0] || c.Policy != p {
					return fmt.Errorf("%+v, %w", c, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// A replica that becomes slow holds neither the requests that it has nor the step: they
// are answered by another one, each exactly once, and it gets few of the rest.
func TestASlowReplicaDoesNotHoldAStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p, delays, answered := fleetOf(t, Config{MaxInFlight: 16}, time.Second, time.Second, time.Second)
		defer b.Close()
		playEpisodes(t, b, p, 12, 10)
		delays[0].Store(int64(4 * time.Minute))
		before := b.Stats()
		begun := time.Now()
		playEpisodes(t, b, p, 12, 10)
		took := time.Since(begun)
		// 10 turns of a second; 4 episodes lose up to twice 7 tokens of a second and look once a second
		if took > 45*time.Second {
			t.Errorf("the step took %v with a replica that needs 4 minutes a request", took)
		}
		s := b.Stats()
		if got := s.Requests - before.Requests; got != 120 {
			t.Errorf("%d answers were counted for 120 requests", got)
		}
		if s.Late == 0 || s.Rescued != s.Late {
			t.Errorf("%+v: late requests must be counted, and answered by the second replica", s)
		}
		if got := answered[0].Load(); got > 50 {
			t.Errorf("the slow replica answered %d requests", got)
		}
	})
}

// Requests in flight at a replica that goes down are sent to a healthy one at once, and
// not after the deadline of a request.
func TestRequestsOfAReplicaThatGoesDownAreSentElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopped atomic.Bool
		hangs := func(ctx context.Context, model string, r sampler.Request) (Answer, error) {
			if stopped.Load() {
				<-ctx.Done()
				return Answer{}, context.Cause(ctx)
			}
			return firstID(model, r), nil
		}
		a := &fake{name: "a", complete: hangs, health: func(ctx context.Context) error {
			if stopped.Load() {
				<-ctx.Done()
				return ErrLost
			}
			return nil
		}}
		returned := make(chan string, 1)
		b, p := open(t, Config{RequestTimeout: 5 * time.Minute, HealthInterval: 5 * time.Second,
			OnReturn: func(url string) { returned <- url }}, a, &fake{name: "b"})
		defer b.Close()
		stopped.Store(true)
		begun := time.Now()
		playEpisodes(t, b, p, 2, 1) // one at each replica; no pace is known yet
		if took := time.Since(begun); took < 5*time.Second || took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
		if s := b.Stats(); s.Requests != 2 || s.Retries != 1 {
			t.Errorf("%+v", s)
		}
		stopped.Store(false)
		if url := <-returned; url != "a" {
			t.Errorf("%s returned", url)
		}
	})
}

// A replica that does not answer when the fleet is opened joins later. It serves the
// current version and has passed its canary before it gets requests.
func TestAReplicaJoinsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var there atomic.Bool
		var canaries, requests atomic.Int64
		late := &fake{name: "late", health: func(context.Context) error {
			if !there.Load() {
				return ErrLost
			}
			return nil
		}, complete: func(_ context.Context, model string, r sampler.Request) (Answer, error) {
			switch {
			case !there.Load():
				return Answer{}, ErrLost
			case r.MaxTokens == canaryTokens:
				canaries.Add(1)
			case canaries.Load() == 0:
				t.Error("a request before the canary")
			default:
				requests.Add(1)
			}
			return firstID(model, r), nil
		}, probe: func() error {
			if !there.Load() {
				return ErrLost
			}
			return nil
		}}
		joined := make(chan string, 1)
		b, p := open(t, Config{OnReturn: func(url string) { joined <- url }}, late, &fake{name: "b"})
		defer b.Close()
		playEpisodes(t, b, p, 4, 4)
		there.Store(true)
		if url := <-joined; url != "late" {
			t.Errorf("%s joined", url)
		}
		for range 4 { // of no session
			if _, err := b.Sample(t.Context(), p, request); err != nil {
				t.Error(err)
			}
		}
		if canaries.Load() != 1 || requests.Load() == 0 {
			t.Errorf("%d canaries, %d requests", canaries.Load(), requests.Load())
		}
	})
}

// A late replica with another tokenizer stays down, like one that is there at the start.
func TestALateReplicaMustHaveTheSameTokenizer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var there atomic.Bool
		var compared atomic.Int64
		late := &fake{name: "late", probe: func() error {
			if !there.Load() {
				return ErrLost
			}
			return nil
		}, tokenize: func(text string) ([]int32, error) {
			compared.Add(1)
			return []int32{int32(len(text)), 99}, nil
		}}
		b, p := open(t, Config{OnReturn: func(url string) { t.Errorf("%s joined", url) }}, late,
			&fake{name: "b", tokenize: func(text string) ([]int32, error) { return []int32{int32(len(text))}, nil }})
		defer b.Close()
		if err := b.CompareTokenizers(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		there.Store(true)
		time.Sleep(time.Minute)
		if compared.Load() == 0 {
			t.Error("its tokenizer was not compared")
		}
		playEpisodes(t, b, p, 4, 4)
	})
}

func TestAFleetWithoutAnyServerIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := func() error { return ErrLost }
		_, err := Open(t.Context(), Config{Servers: []Server{&fake{name: "a", probe: gone}, &fake{name: "b", probe: gone}},
			CanaryPrompt: canaryPrompt})
		if !errors.Is(err, ErrLost) {
			t.Error(err)
		}
	})
}

// A request whose replica goes down after it was chosen, but before the request is sent,
// is lost at once. Nothing else would end it before its deadline.
func TestARequestToAReplicaThatHasJustGoneDownIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, _ string, _ sampler.Request) (Answer, error) {
			<-ctx.Done()
			return Answer{}, context.Cause(ctx)
		}
		down := func(context.Context) error { return ErrLost }
		b, p := open(t, Config{RequestTimeout: time.Hour}, &fake{name: "a", complete: hangs, health: down}, &fake{name: "b"})
		defer b.Close()
		first := b.replicas[0]
		first.markDown(errors.New("stopped"))
		b.mu.Lock()
		v := b.versions[p.Version]
		b.mu.Unlock()
		begun := time.Now()
		if _, err := first.attempt(t.Context(), v, request); !errors.Is(err, ErrLost) || time.Since(begun) > 0 {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}
