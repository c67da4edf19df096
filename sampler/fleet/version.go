package fleet

import (
	"fmt"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// A version is one policy. The backend's mutex guards its fields.
type version struct {
	policy sampler.Policy
	dir    string       // PEFT directory; empty: the base model
	verify func() error // compares the directory with its manifest

	ready    bool            // published: requests are accepted
	trainer  sampler.Adapter // has a Score while the version is being published
	first    *answer         // first answer to the canary; has the trainer's log-probs if verified
	verified bool            // the canary was compared with the trainer
	gate     *admission.Gate // closed when the version is retired
	done     chan struct{}   // closed when retired, drained and unloaded
}

func newVersion(p sampler.Policy, dir string, a sampler.Adapter) *version {
	return &version{policy: p, dir: dir, verify: a.Check, gate: admission.NewGate(), done: make(chan struct{})}
}

// Policy returns the policy of a version, also if it is not served.
func (b *Backend) Policy(version int) sampler.Policy {
	if version == 0 {
		return sampler.Policy{Name: b.probe.Model}
	}
	return sampler.Policy{Version: version, Name: fmt.Sprintf("%s-v%06d", b.cfg.Alias, version)}
}

// enter returns a version for one request, which must leave its gate.
func (b *Backend) enter(p sampler.Policy) (*version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.versions[p.Version]
	switch {
	case b.closed:
		return nil, errClosed
	case v == nil, v.policy != p, !v.ready, !v.gate.Enter():
		return nil, sampler.ErrPolicyGone
	}
	return v, nil
}

// announce tells waiting goroutines that a state has changed. The mutex is held.
func (b *Backend) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}
