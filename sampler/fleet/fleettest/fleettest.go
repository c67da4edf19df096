// Package fleettest checks backends over several replicas against servers that
// misbehave.
package fleettest

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// Fleet is a backend over fakes that load adapters at run time, nothing
// published yet. Both are closed by who opened them.
type Fleet struct {
	Backend sampler.Backend
	Engines []*fakeserver.Engine
	// Silent are faults that this server's answers cannot show.
	Silent []samplertest.Fault
}

// Config says how a Fleet is opened.
type Config struct {
	Replicas int
	Prepare  func(i int, e *fakeserver.Engine) // before the backend is opened; may be nil
	// The deadlines of the backend.
	RequestTimeout, Patience time.Duration
	Tolerance                float64 // of log-probs against the trainer's; 0: the backend's own
	OnReturn                 func(url string)
}

// Run checks what a backend makes of servers that do what they should
// not: nothing wrong is ever taken for an answer, and nothing that can be sent
// again is lost.
func Run(t *testing.T, open func(t *testing.T, c Config) Fleet) {
	for _, test := range []struct {
		name string
		f    func(*misbehaving)
	}{
		{"bad answers are refused", (*misbehaving).refused},
		{"busy or cut, the request is sent again", (*misbehaving).sentAgain},
		{"a hang costs its deadline", (*misbehaving).hangs},
		{"a hung server alone comes back", (*misbehaving).hangsAlone},
		{"a stale cache is caught", (*misbehaving).stale},
		{"one of two serves another version", (*misbehaving).oneIsWrong},
		{"one of three fails to load", (*misbehaving).loadFails},
		{"a load that fails for a while is repeated", (*misbehaving).loadFailsForAWhile},
		{"a replica dies and comes back", (*misbehaving).dies},
		{"a server is started again", (*misbehaving).startedAgain},
		{"a replica comes back wrong", (*misbehaving).comesBackWrong},
		{"all are dead", (*misbehaving).allDead},
		{"a name keeps its content", (*misbehaving).neverInPlace},
		{"an earlier run's adapter goes", (*misbehaving).leftOver},
		{"admission follows the server", (*misbehaving).admission},
		{"sessions stay where they are", (*misbehaving).sticky},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(&misbehaving{t, open}) })
	}
}

type misbehaving struct {
	*testing.T
	open func(t *testing.T, c Config) Fleet
}

// asked is the suite's request; nothing else asks for as many tokens.
var asked = sampler.Request{Prompt: []int32{samplertest.Start, 50, samplertest.End}, MaxTokens: 21, Temperature: 1,
	Seed: 7}

// once makes the first asked request go wrong, on whichever replica.
func once(fault samplertest.Fault) func(int, *fakeserver.Engine) {
	var done atomic.Bool
	return func(_ int, e *fakeserver.Engine) {
		e.Fault = func(s fakeserver.Seen) samplertest.Fault {
			if s.MaxTokens == asked.MaxTokens && done.CompareAndSwap(false, true) {
				return fault
			}
			return ""
		}
	}
}

func (m *misbehaving) publish(f Fleet, version int) (sampler.Adapter, sampler.Policy) {
	m.Helper()
	a := fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, version)
	p, err := f.Backend.Publish(m.Context(), a)
	if err != nil {
		m.Fatal(err)
	}
	return a, p
}

// right samples and compares with the script.
func (m *misbehaving) right(f Fleet, p sampler.Policy) {
	m.Helper()
	c, err := f.Backend.Sample(m.Context(), p, asked)
	if err != nil {
		m.Fatal(err)
	}
	want := f.Engines[0].Policy.Sample(p.Version, asked)
	if !slices.Equal(c.IDs, want.IDs) || samplertest.MaxDiff(c.Logprobs, want.Logprobs) > 1e-6 || c.Policy != p {
		m.Errorf("%+v, want %+v", c, want)
	}
}

func (m *misbehaving) fails(f Fleet, p sampler.Policy, says ...string) {
	m.Helper()
	_, err := f.Backend.Sample(m.Context(), p, asked)
	if err == nil {
		m.Fatalf("answered, want an error with %q", says)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			m.Errorf("%v, want %q", err, s)
		}
	}
}

func (m *misbehaving) refused() {
	for fault, says := range map[samplertest.Fault]string{
		samplertest.FaultWrongModel: "in place of policy-v000001",
		samplertest.FaultWrongIDs:   "the sampled id is",
		samplertest.FaultBadID:      "outside the vocabulary",
		samplertest.FaultNoLogprobs: "0 log-probs for",
		samplertest.FaultNaN:        "log-prob NaN",
		samplertest.FaultTooMany:    "21 were asked for",
		samplertest.FaultEmpty:      "0 tokens",
		samplertest.FaultGarbage:    "not an answer of an inference server",
	} {
		m.Run(string(fault), func(t *testing.T) {
			m := &misbehaving{t, m.open}
			f := m.open(t, Config{Replicas: 1, Prepare: once(fault)})
			if slices.Contains(f.Silent, fault) {
				t.Skip("this server's answers do not show it")
			}
			_, p := m.publish(f, 1)
			m.fails(f, p, says, f.Engines[0].URL)
			m.right(f, p)
		})
	}
}

func (m *misbehaving) sentAgain() {
	for _, fault := range []samplertest.Fault{samplertest.FaultBusy, samplertest.FaultCut} {
		f := m.open(m.T, Config{Replicas: 1, Prepare: once(fault)})
		_, p := m.publish(f, 1)
		m.right(f, p)
	}
}

func (m *misbehaving) hangs() {
	f := m.open(m.T, Config{Replicas: 2, Prepare: once(samplertest.FaultHang), RequestTimeout: time.Second})
	_, p := m.publish(f, 1)
	m.right(f, p)
}

func (m *misbehaving) hangsAlone() {
	f := m.open(m.T, Config{Replicas: 1, Prepare: once(samplertest.FaultHang), RequestTimeout: time.Second})
	_, p := m.publish(f, 1)
	m.right(f, p)
}

// stale: the server answers with what it has kept of the version before.
func (m *misbehaving) stale() {
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
		if stale := version == 2; stale != errors.Is(err, sampler.ErrCanary) {
			m.Errorf("version %d: %v", version, err)
		}
	}
}
