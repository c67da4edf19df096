package rollout_test

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// A memory chooses among the distinct actions of several replies, or an action of its own. The
// environment gets what it chose, and the conversation goes on with it.
func TestAMemoryChoosesTheAction(t *testing.T) {
	play := func(own bool) (rollout.Trajectory, []string, []rollout.Query) {
		w := &corridor{n: 3, reward: 1}
		var acted []string
		w.step = func(_ context.Context, i int, action string) (envs.Step, error) {
			acted = append(acted, action)
			return envs.Step{Reward: 1, Terminated: i == 2, Observation: envs.Observation{State: w.state()}}, nil
		}
		d, b := newDriver(t, single(w), actsAndWritesTip("none"), "dig", "look")
		n := 0
		b.AfterSample = func(c *sampler.Completion) { // the second and third reply of a turn are another one
			if n++; n%3 != 1 {
				ids, err := b.Tokenize(context.Background(), "look")
				if err != nil {
					t.Fatal(err)
				}
				c.Text, c.IDs, c.Logprobs = "look", append(ids, d.ChatTemplate.EOS()), make(sampler.Logprobs, len(ids)+1)
				c.Logprobs[0] = -2
			}
		}
		var asked []rollout.Query
		s := spec()
		s.Candidates, s.Recall = 3, recalls()
		s.Choose = func(_ context.Context, q rollout.Query, c []rollout.Candidate) (string, error) {
			asked = append(asked, q)
			if len(c) != 2 || c[1].Action != "look" || c[1].Logprob != -2 || c[0].Logprob > 0 {
				t.Errorf("candidates %+v", c)
			}
			if own {
				return "dig", nil
			}
			return "look", nil
		}
		return d.Run(t.Context(), s), acted, asked
	}
	for own, want := range map[bool]string{false: "look", true: "dig"} {
		got, acted, asked := play(own)
		if got.Failed() {
			t.Fatal(got.Err)
		}
		if !slices.Equal(acted, []string{want, want, want}) || len(got.Turns) != 3 || len(asked) != 3 {
			t.Fatalf("the environment got %v in %d turns, asked %v", acted, len(got.Turns), asked)
		}
		if asked[0].Scope != "house-1" || asked[0].Seed == asked[1].Seed {
			t.Errorf("asked %+v", asked)
		}
		turn := got.Turns[1]
		if turn.Action != want || len(turn.Candidates) != 2 || len(turn.IDs) != len(turn.Logprobs) ||
			math.IsNaN(float64(turn.Logprobs[0])) != own {
			t.Errorf("turn %+v", turn)
		}
	}
}
