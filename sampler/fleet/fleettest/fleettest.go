// Package fleettest is a test suite for backends with several replicas. Its fake servers misbehave: they hang, die,
// return wrong answers or serve the wrong adapter. Start with [Run].
package fleettest

import (
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// Fleet is a backend and its fake servers, which load adapters at run time. No version is published yet. The function
// that opened the fleet closes it after the test.
type Fleet struct {
	Backend sampler.Backend
	Engines []*fakeserver.Engine
	// Undetectable are faults that the backend cannot detect in this server's answers.
	Undetectable []samplertest.Fault
}

// Config says how to open a Fleet.
type Config struct {
	Replicas int
	Prepare  func(i int, e *fakeserver.Engine) // called for each server before the backend is opened; may be nil
	// RequestTimeout bounds one request. Patience is how long a request waits for a healthy replica. 0: the default.
	RequestTimeout, Patience time.Duration
	Tolerance                float64          // of log-probs against the trainer's in nats; 0: the default
	OnReturn                 func(url string) // called if a replica becomes healthy again; may be nil
}

// Run checks that a backend never accepts a wrong answer of a server, and that it retries all requests that are safe to
// retry. It calls open for each test.
func Run(t *testing.T, open func(t *testing.T, c Config) Fleet) {
	for _, test := range []struct {
		name string
		f    func(*suite)
	}{
		{"bad answers are refused", (*suite).badAnswers},
		{"an unknown log-prob is no bad answer", (*suite).unknownLogprob},
		{"busy servers and broken connections are retried", (*suite).retries},
		{"a request that hangs is sent to another replica", (*suite).oneHangs},
		{"a single server recovers from a hang", (*suite).onlyServerHangs},
		{"the canary detects a stale cache", (*suite).staleCache},
		{"one of two serves another version", (*suite).oneServesAnotherVersion},
		{"one of three fails to load", (*suite).loadFails},
		{"a failed load is retried", (*suite).loadIsRetried},
		{"a replica dies and returns", (*suite).dies},
		{"a server restarts between two requests", (*suite).restarts},
		{"a replica that returns with other weights stays down", (*suite).returnsWrong},
		{"all servers are dead", (*suite).allDead},
		{"a name keeps its content", (*suite).nameKeepsItsContent},
		{"the adapter of an earlier run is replaced", (*suite).replacesForeignAdapter},
		{"admission follows the server's queue", (*suite).admission},
		{"sessions stay on one replica", (*suite).stickySessions},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(&suite{t, open}) })
	}
}

// A suite is one test of Run.
type suite struct {
	*testing.T
	open func(t *testing.T, c Config) Fleet
}

// testRequest is the request of the tests. Its MaxTokens distinguishes it from the backend's own checks.
var testRequest = sampler.Request{
	Prompt: []int32{samplertest.Start, 50, samplertest.End}, MaxTokens: 21, Temperature: 1, Seed: 7,
}

// failOnce makes the first testRequest fail, on any replica.
func failOnce(fault samplertest.Fault) func(int, *fakeserver.Engine) {
	var done atomic.Bool
	return func(_ int, e *fakeserver.Engine) {
		e.Fault = func(s fakeserver.CompletionRequest) samplertest.Fault {
			if s.MaxTokens == testRequest.MaxTokens && done.CompareAndSwap(false, true) {
				return fault
			}
			return ""
		}
	}
}

func (m *suite) publish(f Fleet, version int) (sampler.Adapter, sampler.Policy) {
	m.Helper()
	a := fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, version)
	p, err := f.Backend.Publish(m.Context(), a)
	if err != nil {
		m.Fatal(err)
	}
	return a, p
}

// checkSample samples and compares the completion with the script.
func (m *suite) checkSample(f Fleet, p sampler.Policy) {
	m.Helper()
	c, err := f.Backend.Sample(m.Context(), p, testRequest)
	if err != nil {
		m.Fatal(err)
	}
	want := f.Engines[0].Policy.Sample(p.Version, testRequest)
	if !slices.Equal(c.IDs, want.IDs) || samplertest.MaxDiff(c.Logprobs, want.Logprobs) > 1e-6 || c.Policy != p {
		m.Errorf("%+v, want %+v", c, want)
	}
}

// checkFailure samples and checks that the error contains texts.
func (m *suite) checkFailure(f Fleet, p sampler.Policy, texts ...string) {
	m.Helper()
	_, err := f.Backend.Sample(m.Context(), p, testRequest)
	if err == nil {
		m.Fatalf("answered, want an error with %q", texts)
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			m.Errorf("%v, want %q", err, s)
		}
	}
}

// unknownLogprob checks that a token without a log-prob costs neither the answer nor the
// replica.
func (m *suite) unknownLogprob() {
	f := m.open(m.T, Config{Replicas: 1, Prepare: failOnce(samplertest.FaultNaN)})
	_, p := m.publish(f, 1)
	c, err := f.Backend.Sample(m.Context(), p, testRequest)
	if err != nil {
		m.Fatal(err)
	}
	for i, l := range c.Logprobs {
		if math.IsNaN(float64(l)) != (i == len(c.IDs)-1) {
			m.Errorf("log-probs %v", c.Logprobs)
			break
		}
	}
	m.checkSample(f, p)
}

func (m *suite) badAnswers() {
	for fault, text := range map[samplertest.Fault]string{
		samplertest.FaultWrongModel: "in place of policy-v000001",
		samplertest.FaultWrongIDs:   "the sampled id is",
		samplertest.FaultBadID:      "outside the vocabulary",
		samplertest.FaultNoLogprobs: "0 log-probs for",
		samplertest.FaultTooMany:    "21 were asked for",
		samplertest.FaultEmpty:      "0 tokens",
		samplertest.FaultGarbage:    "not an answer of an inference server",
		samplertest.FaultFlood:      "the answer is longer than 1 MiB",
	} {
		m.Run(string(fault), func(t *testing.T) {
			m := &suite{t, m.open}
			f := m.open(t, Config{Replicas: 1, Prepare: failOnce(fault)})
			if slices.Contains(f.Undetectable, fault) {
				t.Skip("the backend cannot detect this fault in the server's answers")
			}
			_, p := m.publish(f, 1)
			m.checkFailure(f, p, text, f.Engines[0].URL)
			m.checkSample(f, p)
		})
	}
}

func (m *suite) retries() {
	for _, fault := range []samplertest.Fault{samplertest.FaultBusy, samplertest.FaultCut} {
		f := m.open(m.T, Config{Replicas: 1, Prepare: failOnce(fault)})
		_, p := m.publish(f, 1)
		m.checkSample(f, p)
	}
}

func (m *suite) oneHangs() {
	f := m.open(m.T, Config{Replicas: 2, Prepare: failOnce(samplertest.FaultHang), RequestTimeout: time.Second})
	_, p := m.publish(f, 1)
	m.checkSample(f, p)
}

func (m *suite) onlyServerHangs() {
	f := m.open(m.T, Config{Replicas: 1, Prepare: failOnce(samplertest.FaultHang), RequestTimeout: time.Second})
	_, p := m.publish(f, 1)
	m.checkSample(f, p)
}

// staleCache: the server answers version 20 with the weights of version 10.
func (m *suite) staleCache() {
	f := m.open(m.T, Config{Replicas: 1, Prepare: func(_ int, e *fakeserver.Engine) {
		e.Applied = func(version int) int { return min(version, 10) }
	}})
	prompt := slices.Concat([]int32{samplertest.Start, 50, samplertest.End}, f.Engines[0].Policy.Opening())
	b := sampler.WithCanary(f.Backend, prompt, 1e-4, nil)
	for version := range 3 {
		a := sampler.Adapter{}
		if version > 0 {
			a = fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, 10*version)
			a.Version = version
		}
		_, err := b.Publish(m.Context(), a)
		if wantErr := version == 2; wantErr != errors.Is(err, sampler.ErrCanary) {
			m.Errorf("version %d: %v", version, err)
		}
	}
}
