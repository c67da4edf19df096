package rollout_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

func served(version int) sampler.Policy {
	return sampler.Policy{Version: version, Name: samplertest.Name(version)}
}

// Each turn is sampled from the version that is the newest when it begins.
func TestTurnsAreSampledFromTheNewestVersion(t *testing.T) {
	w := &corridor{n: 4, reward: 0.5}
	d, b := newDriver(t, single(w), samplertest.Say(" pull jade"))
	var newest atomic.Int64
	b.AfterSample = func(*sampler.Completion) {
		if w.i == 1 { // the second turn is in flight
			newest.Store(1)
		}
	}
	s := spec()
	s.Newest = func() sampler.Policy { return served(int(newest.Load())) }
	got := d.Run(t.Context(), s)
	var versions []int
	for _, turn := range got.Turns {
		versions = append(versions, turn.Version)
	}
	if got.Stop != rollout.StopTerminated || got.Policy != served(0) || !slices.Equal(versions, []int{0, 0, 1, 1}) {
		t.Errorf("%s %s: policy %v, versions %v", got.Stop, got.Err, got.Policy, versions)
	}
}

// A version that is retired between the choice and the request is replaced by the one
// that has replaced it. A version that is gone without another one ends the episode.
func TestARetiredVersionIsReplaced(t *testing.T) {
	d, b := newDriver(t, single(&corridor{n: 1}), samplertest.Say(" pull jade"))
	if err := b.Retire(context.Background(), served(0)); err != nil {
		t.Fatal(err)
	}
	asked := 0
	s := spec()
	s.Newest = func() sampler.Policy {
		asked++
		if asked <= 2 { // for the trajectory, and for the first try
			return served(0)
		}
		return served(1)
	}
	if got := d.Run(t.Context(), s); got.Stop != rollout.StopTerminated || got.Policy != served(1) {
		t.Errorf("%s %s: policy %v", got.Stop, got.Err, got.Policy)
	}
	s.Newest = func() sampler.Policy { return served(0) }
	if got := d.Run(t.Context(), s); got.Stop != rollout.StopFailed {
		t.Errorf("a version that is gone: %s", got.Stop)
	}
}
