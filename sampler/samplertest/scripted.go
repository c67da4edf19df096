package samplertest

import (
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

// Scripted is a Backend, Tokenizer and ControlTokens whose policy is a Script.
// It keeps every call. The hooks may be nil; set them before the first call.
type Scripted struct {
	*Tokenizer
	Policy Policy
	// Context is the context length in tokens; 0: no limit.
	Context int
	// BeforeSample runs before an answer is made. Its error is the answer's.
	BeforeSample func(context.Context, sampler.Policy, sampler.Request) error
	// AfterSample may spoil an answer.
	AfterSample func(*sampler.Completion)
	// BeforePublish may refuse a version.
	BeforePublish func(context.Context, sampler.Adapter) error
	// Applied maps a published version to the version whose script answers;
	// nil: itself. A constant makes adapters that are never applied.
	Applied func(version int) int

	mu     sync.Mutex
	served map[int]*serving // by version
	calls  []Call
	closed bool
}

// serving is one version that is served, or retired and still answering.
type serving struct {
	inFlight int
	retired  bool
	drained  chan struct{} // closed when retired and nothing is in flight
}

func (v *serving) settle() {
	if v.retired && v.inFlight == 0 {
		close(v.drained)
	}
}

// NewScripted makes a backend. No version is served yet.
func NewScripted(t *Tokenizer, script Script) *Scripted {
	return &Scripted{Tokenizer: t, Policy: Policy{t, script}, served: map[int]*serving{}}
}

var (
	_ sampler.Backend    = (*Scripted)(nil)
	_ chat.Tokenizer     = (*Scripted)(nil)
	_ chat.ControlTokens = (*Scripted)(nil)
)

// Name is the policy name of a version.
func Name(version int) string { return fmt.Sprintf("policy-v%06d", version) }

// Calls returns what was sampled so far, in the order of the answers.
func (s *Scripted) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Adapter is a version as its trainer would hand it over, with exact scores.
func (s *Scripted) Adapter(version int) sampler.Adapter {
	return sampler.Adapter{
		Version: version,
		Score: func(_ context.Context, tokens []int32) ([]float32, error) {
			return s.Policy.Score(version, tokens), nil
		},
	}
}

// Capabilities are those of a perfect server.
func (s *Scripted) Capabilities(context.Context) (sampler.Capabilities, error) {
	return sampler.Capabilities{
		Server: "scripted", Version: "1", IDsIn: true, IDsOut: true, Logprobs: true, StopStrings: true,
		Adapters: "runtime", AdapterFormat: "none", ContextLength: s.Context, Parallel: 64, VocabSize: s.VocabSize(),
	}, nil
}

// Sample answers from the script.
func (s *Scripted) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	v, err := s.enter(p)
	if err != nil {
		return sampler.Completion{}, err
	}
	defer s.leave(v)
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

func (s *Scripted) enter(p sampler.Policy) (*serving, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.served[p.Version]
	if !ok {
		return nil, fmt.Errorf("sample %s: %w", p.Name, sampler.ErrPolicyGone)
	}
	v.inFlight++
	return v, nil
}

func (s *Scripted) leave(v *serving) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.inFlight--
	v.settle()
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

// Served lists the versions that can be sampled, in order.
func (s *Scripted) Served() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.served))
}

// Retire refuses new requests at once and waits for those in flight. A
// version that is not served is retired already.
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
	v.settle()
	return v
}

// Close serves nothing any more.
func (s *Scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	clear(s.served)
	return nil
}
