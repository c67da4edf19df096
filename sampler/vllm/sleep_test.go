package vllm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func TestServersThatWakeUpAreVerified(t *testing.T) {
	servers, urls := fakes(t, 2)
	for _, s := range servers {
		s.DevMode = true
	}
	b := openFake(t, config(urls))
	p := publish(t, b, fakeserver.WriteAdapter(t, policy, 1))
	if !b.CanSleep() {
		t.Fatal("the servers cannot sleep")
	}
	if err := b.Sleep(t.Context()); err != nil {
		t.Fatal(err)
	}
	var sleeper sampler.Sleeper = b
	answered := make(chan error, 1)
	go func() { _, err := b.Sample(t.Context(), p, testRequest); answered <- err }()
	for _, s := range servers {
		if !s.Asleep() {
			t.Errorf("%s is awake", s.URL)
		}
	}
	if err := sleeper.Wake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("a request during the sleep: %v", err)
	}
	for _, s := range servers {
		if loads, _ := s.Loads(); loads != 2 || s.Asleep() {
			t.Errorf("%d loads, asleep %v", loads, s.Asleep())
		}
	}
}

func TestAServerThatLosesItsAdapterInItsSleepIsNotUsed(t *testing.T) {
	servers, urls := fakes(t, 1)
	servers[0].DevMode = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	checks := 0
	servers[0].Applied = func(version int) int { // the adapter is lost during the sleep
		if loads, _ := servers[0].Loads(); loads == 1 || version == 0 {
			return version
		}
		if checks++; checks == 2 {
			cancel() // the first canary has failed
		}
		return 0
	}
	b := openFake(t, config(urls))
	publish(t, b, fakeserver.WriteAdapter(t, policy, 30))
	if err := b.Sleep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Wake(ctx); err == nil || !strings.Contains(err.Error(), "log-probs differ") {
		t.Error(err)
	}
}

func TestSleepIsUnsupportedWithoutSleepMode(t *testing.T) {
	_, urls := fakes(t, 1)
	b := openFake(t, config(urls))
	if err := b.Sleep(t.Context()); !errors.Is(err, errors.ErrUnsupported) ||
		!strings.Contains(err.Error(), "--enable-sleep-mode") {
		t.Error(err)
	}
	if err := b.Wake(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// A killed run leaves its servers asleep. The next run wakes them.
func TestOpenWakesServersThatSleep(t *testing.T) {
	servers, urls := fakes(t, 2)
	for _, s := range servers {
		s.DevMode = true
	}
	post(t, urls[1]+"/sleep")
	cfg := config(urls)
	cfg.Sleep = true
	b := openFake(t, cfg)
	p := publish(t, b, fakeserver.WriteAdapter(t, policy, 1))
	if c, err := b.Sample(t.Context(), p, testRequest); err != nil || servers[1].Asleep() || !b.CanSleep() {
		t.Errorf("%+v %v, asleep %v", c, err, servers[1].Asleep())
	}
}
