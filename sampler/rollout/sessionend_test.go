package rollout_test

import (
	"context"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler/samplertest"
)

// The requests of an episode say when their session has ended: after the last turn.
func TestSessionsEndWithTheirEpisode(t *testing.T) {
	w := &corridor{n: 3, reward: 1}
	d, b := newDriver(t, single(w), samplertest.Say("pull jade"))
	hasEnded := func(i int) bool {
		select {
		case <-b.Calls()[i].Request.SessionEnd:
			return true
		default:
			return false
		}
	}
	w.step = func(_ context.Context, i int, _ string) (envs.Step, error) {
		if hasEnded(0) {
			t.Errorf("the session has ended in turn %d", i)
		}
		return envs.Step{Terminated: i == 2}, nil
	}
	d.Run(t.Context(), spec())
	if n := len(b.Calls()); n != 3 || !hasEnded(0) || !hasEnded(n-1) {
		t.Errorf("%d requests, the session of the first has ended: %v", n, hasEnded(0))
	}
}
