package samplertest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// Call is one request that a Scripted backend answered.
type Call struct {
	Policy     sampler.Policy
	Request    sampler.Request
	Completion sampler.Completion
}

// Scripted is a Backend, Tokenizer and ControlTokens whose policy is a Script. It records every call. The hooks may be
// nil. Set them before the first call.
type Scripted struct {
	*Tokenizer
	Policy Policy
	// Context is the context length in tokens; 0: no limit.
	Context int
	// Adapters is the capability of that name; empty: "runtime".
	Adapters string
	// BeforeSample is called before sampling. Sample returns its error.
	BeforeSample func(context.Context, sampler.Policy, sampler.Request) error
	// AfterSample may modify a completion.
	AfterSample func(*sampler.Completion)
	// BeforePublish is called before publishing. Publish returns its error.
	BeforePublish func(context.Context, sampler.Adapter) error
	// Applied maps a published version to the version whose script answers; nil: the same version. A constant simulates
	// adapters that are never applied.
	Applied func(version int) int

	mu     sync.Mutex
	served map[int]*serving // by version
	calls  []Call
	closed bool
}

// serving is the state of a version that is served, or that is retired and has requests in flight.
type serving struct {
	inFlight int
	retired  bool
	drained  chan struct{} // closed when retired and no request is in flight
}

// closeIfDrained closes drained if the version is retired and has no request in flight.
func (v *serving) closeIfDrained() {
	if v.retired && v.inFlight == 0 {
		close(v.drained)
	}
}

// NewScripted returns a backend. It serves no version yet.
func NewScripted(t *Tokenizer, script Script) *Scripted {
	return &Scripted{Tokenizer: t, Policy: Policy{t, script}, served: map[int]*serving{}}
}

var (
	_ sampler.Backend    = (*Scripted)(nil)
	_ chat.Tokenizer     = (*Scripted)(nil)
	_ chat.ControlTokens = (*Scripted)(nil)
)

// Name returns the policy name of a version.
func Name(version int) string { return fmt.Sprintf("policy-v%06d", version) }

// Calls returns the calls so far, in the order of their completions.
func (s *Scripted) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Adapter returns a version as a trainer exports it, with exact scores and no files.
func (s *Scripted) Adapter(version int) sampler.Adapter {
	return sampler.Adapter{
		Version: version,
		Score: func(_ context.Context, tokens []int32) ([]float32, error) {
			return s.Policy.Score(version, tokens), nil
		},
	}
}

// Capabilities returns the capabilities of a server that supports everything.
func (s *Scripted) Capabilities(context.Context) (sampler.Capabilities, error) {
	return sampler.Capabilities{
		Server: "scripted", Version: "1", IDsIn: true, IDsOut: true, Logprobs: true, StopStrings: true,
		Adapters: cmp.Or(s.Adapters, "runtime"), AdapterFormat: "none", ContextLength: s.Context, Parallel: 64,
		VocabSize: s.VocabSize(),
	}, nil
}

// Sample samples from the script.
func (s *Scripted) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	v, err := s.acquire(p)
	if err != nil {
		return sampler.Completion{}, err
	}
	defer s.release(v)
	if s.BeforeSample != nil {
		if err := s.BeforeSample(ctx, p, r); err != nil {
			return sampler.Completion{}, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return sampler.Completion{}, err
	}
	if s.Context > 0 && len(r.Prompt) >= s.Context {
		return sampler.Completion{}, fmt.Errorf("prompt of %d tokens: %w", len(r.Prompt), sampler.ErrContextFull)
	}
	if s.Context > 0 {
		r.MaxTokens = min(r.MaxTokens, s.Context-len(r.Prompt))
	}
	if can, err := s.Capabilities(ctx); err != nil {
		return sampler.Completion{}, err
	} else if err := r.CheckSampling(can); err != nil {
		return sampler.Completion{}, err
	}
	c := s.Policy.Sample(s.applied(p.Version), r)
	c.Policy = sampler.Policy{Version: p.Version, Name: Name(p.Version)}
	if s.AfterSample != nil {
		s.AfterSample(&c)
	}
	r.Prompt = slices.Clone(r.Prompt)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, Call{p, r, c})
	return c, nil
}

func (s *Scripted) applied(version int) int {
	if s.Applied == nil {
		return version
	}
	return s.Applied(version)
}

// acquire counts a request of a version.
func (s *Scripted) acquire(p sampler.Policy) (*serving, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.served[p.Version]
	if !ok {
		return nil, fmt.Errorf("sample %s: %w", p.Name, sampler.ErrPolicyGone)
	}
	v.inFlight++
	return v, nil
}

// release ends a request of a version.
func (s *Scripted) release(v *serving) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.inFlight--
	v.closeIfDrained()
}

// Publish serves the version at once.
func (s *Scripted) Publish(ctx context.Context, a sampler.Adapter) (sampler.Policy, error) {
	if s.BeforePublish != nil {
		if err := s.BeforePublish(ctx, a); err != nil {
			return sampler.Policy{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return sampler.Policy{}, fmt.Errorf("publish version %d: the backend is closed", a.Version)
	}
	if _, ok := s.served[a.Version]; !ok {
		s.served[a.Version] = &serving{drained: make(chan struct{})}
	}
	return sampler.Policy{Version: a.Version, Name: Name(a.Version)}, nil
}

// Served returns the versions that can be sampled, sorted.
func (s *Scripted) Served() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.served))
}

// Retire refuses new requests at once and waits for requests in flight. It does nothing for a version that is not
// served.
func (s *Scripted) Retire(ctx context.Context, p sampler.Policy) error {
	v := s.retire(p.Version)
	if v == nil {
		return nil
	}
	select {
	case <-v.drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("retire %s: %w", p.Name, context.Cause(ctx))
	}
}

func (s *Scripted) retire(version int) *serving {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.served[version]
	if !ok {
		return nil
	}
	delete(s.served, version)
	v.retired = true
	v.closeIfDrained()
	return v
}

// Close stops serving all versions.
func (s *Scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	clear(s.served)
	return nil
}
