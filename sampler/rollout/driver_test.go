package rollout_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

func TestTrajectoryRecordsEveryTurn(t *testing.T) {
	w := &corridor{n: 2, reward: 0.5}
	d, b := newDriver(t, single(w), samplertest.Say(" pull jade"))
	s := spec()
	s.Recall = recalls(prompt.Tip{ID: 4, Text: "At iron pull jade."})
	got := d.Run(t.Context(), s)

	if got.Stop != rollout.StopTerminated || got.Err != "" || !got.Success || !got.Memory || got.Attempts != 1 {
		t.Errorf("stop %s, err %q, success %v, memory %v, attempts %d", got.Stop, got.Err, got.Success, got.Memory,
			got.Attempts)
	}
	if got.EnvReturn != 1 || got.Score != 1 || w.closed != 1 {
		t.Errorf("return %v, score %v, closed %d times", got.EnvReturn, got.Score, w.closed)
	}
	if diff := cmp.Diff(envs.Observation{Feedback: "You are out."}, got.Final); diff != "" {
		t.Error(diff)
	}
	if len(got.Turns) != 2 {
		t.Fatalf("%d turns", len(got.Turns))
	}
	for i, turn := range got.Turns {
		call := b.Calls()[i]
		if turn.Action != "pull jade" || turn.Version != 1 || turn.Similar != 1 || turn.Finish != sampler.FinishStop ||
			turn.PromptLen != len(call.Request.Prompt) || !slices.Equal(turn.IDs, call.Completion.IDs) {
			t.Errorf("turn %d: %+v", i, turn)
		}
		if call.Request.Seed != sampler.Seed(s.Seed, uint64(i)) || call.Request.Session != "s3-g1-e2" ||
			call.Request.MaxTokens != s.MaxTokens {
			t.Errorf("request %d: %+v", i, call.Request)
		}
	}
	if len(got.Turns[0].Tips) != 1 || len(got.Turns[1].Tips) != 0 {
		t.Errorf("tips of the turns: %v, %v", got.Turns[0].Tips, got.Turns[1].Tips)
	}
	want := "<|im_start|>system\nYou walk a corridor.<|im_end|>\n" +
		"<|im_start|>user\nTips:\n- At iron pull jade.\nLevers: jade, bone. Door 1 of 2 is iron.<|im_end|>\n" +
		"<|im_start|>assistant\n pull jade<|im_end|>\n" +
		"<|im_start|>user\nIt opens.\nLevers: jade, bone. Door 2 of 2 is iron.<|im_end|>\n" +
		"<|im_start|>assistant\n pull jade<|im_end|>"
	if diff := cmp.Diff(want, b.Decode(got.Rows(true)[0].Tokens)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(strings.Replace(want, "Tips:\n- At iron pull jade.\n", "", 1),
		b.Decode(got.Rows(false)[0].Tokens)); diff != "" {
		t.Error(diff)
	}
}

// Two runs of the same spec are equal. Runs with different seeds differ.
func TestSeedDeterminesTheEpisode(t *testing.T) {
	d, _ := newDriver(t, corridors(6), adversarialScript)
	run := func(seed uint64) (ids []int32) {
		s := spec()
		s.Seed = seed
		for _, turn := range d.Run(t.Context(), s).Turns {
			ids = append(ids, turn.IDs...)
		}
		return ids
	}
	if !slices.Equal(run(1), run(1)) {
		t.Error("one seed gave two episodes")
	}
	if slices.Equal(run(1), run(2)) {
		t.Error("two seeds gave one episode")
	}
}

// A search for the tokens of a tip would fail if BPE merged them with a neighbour. The row without tips must be exact
// even if the tokenizer merges at all edges of a tip and the tip repeats the state.
func TestRowWithoutTipsIsThatOfAnEpisodeWithoutTips(t *testing.T) {
	tip := prompt.Tip{ID: 1, Text: "pull jade.\nTips:\n- Levers: jade, bone. Door 1 of 2 is iron.<|im_end|>"}
	d, b := newDriver(t, corridors(2), samplertest.Say("pull jade"), ":\n- pull", ".\nLevers", "<|im_end|>\n",
		"user\nTips", "user\nLevers")
	s := spec()
	s.Recall = recalls(tip)
	got := d.Run(t.Context(), s)
	withoutMemory := d.Run(t.Context(), spec())
	if diff := cmp.Diff(withoutMemory.RowsWithoutTips, got.RowsWithoutTips); diff != "" {
		t.Errorf("the row without tips is not that of an episode without tips: %s", diff)
	}
	if n := strings.Count(b.Decode(got.RowsWithTips[0].Tokens), "jade, bone. Door 1"); n != 2 {
		t.Errorf("the row with tips has the text %d times, want the state and the tip that repeats it", n)
	}
}

// An episode that fills the context keeps its reward and its row. Otherwise it would count in the group's advantages
// without being trained.
func TestFullContextKeepsRewardAndRow(t *testing.T) {
	d, b := newDriver(t, corridors(9), samplertest.Say("pull jade"))
	free := d.Run(t.Context(), spec())
	s := spec()
	s.MaxPrompt = free.Turns[3].PromptLen - 1 // the fourth prompt is one token too long
	calls := len(b.Calls())
	got := d.Run(t.Context(), s)
	if got.Stop != rollout.StopContextFull || got.Failed() || got.Err != "" {
		t.Errorf("stop %s, err %q", got.Stop, got.Err)
	}
	if got.EnvReturn != 3 || got.Score != 3 || len(got.Turns) != 3 || len(b.Calls())-calls != 3 {
		t.Errorf("return %v, score %v, %d turns, %d requests", got.EnvReturn, got.Score, len(got.Turns), len(b.Calls())-calls)
	}
	row := got.RowsWithoutTips[0].Tokens
	if !slices.Equal(row, free.RowsWithoutTips[0].Tokens[:len(row)]) || row[len(row)-1] != samplertest.End {
		t.Error("the row does not end with the last action")
	}
	if got.Final.State == "" {
		t.Error("the last state is missing")
	}
}

// ErrContextFull from the server ends the episode as MaxPrompt does.
func TestFullContextOfTheServerEndsTheEpisode(t *testing.T) {
	d, b := newDriver(t, corridors(9), samplertest.Say("pull jade"))
	b.Context = d.Run(t.Context(), spec()).Turns[2].PromptLen
	got := d.Run(t.Context(), spec())
	if got.Stop != rollout.StopContextFull || len(got.Turns) != 2 || got.EnvReturn != 2 {
		t.Errorf("stop %s (%s), %d turns, return %v", got.Stop, got.Err, len(got.Turns), got.EnvReturn)
	}
}

// One training row per turn would cost O(T²) prompt tokens.
func TestTrajectoryIsOneRow(t *testing.T) {
	d, _ := newDriver(t, corridors(12), samplertest.Say("pull jade"))
	s := spec()
	s.Recall = recalls(prompt.Tip{ID: 1, Text: "At iron pull jade."}, prompt.Tip{ID: 2, Text: "Hurry."})
	got := d.Run(t.Context(), s)
	if len(got.RowsWithTips) != 1 || len(got.RowsWithoutTips) != 1 {
		t.Fatalf("%d and %d rows", len(got.RowsWithTips), len(got.RowsWithoutTips))
	}
	last := got.Turns[11]
	if len(got.RowsWithTips[0].Tokens) != last.PromptLen+len(last.IDs) {
		t.Errorf("row of %d tokens, the last prompt has %d", len(got.RowsWithTips[0].Tokens), last.PromptLen)
	}
}

func TestLimitsEndEpisodes(t *testing.T) {
	f := func(steps int, step envs.Step, want rollout.StopReason, turns int) {
		t.Helper()
		w := &corridor{n: 100, step: func(context.Context, int, string) (envs.Step, error) { return step, nil }}
		d, _ := newDriver(t, single(w), samplertest.Say("wait"))
		s := spec()
		s.MaxTurns = steps
		if got := d.Run(t.Context(), s); got.Stop != want || len(got.Turns) != turns {
			t.Errorf("stop %s after %d turns, want %s after %d", got.Stop, len(got.Turns), want, turns)
		}
	}
	f(5, envs.Step{}, rollout.StopMaxTurns, 5)
	f(5, envs.Step{Truncated: true}, rollout.StopTruncated, 1)
	f(1, envs.Step{Terminated: true}, rollout.StopTerminated, 1)
	f(0, envs.Step{Terminated: true, Truncated: true}, rollout.StopTerminated, 1)
}

// failure has the parts of an episode that a test can break.
type failure struct {
	world  *corridor
	driver *rollout.Driver
	server *samplertest.Scripted
	spec   *rollout.EpisodeSpec
}

var errBroken = errors.New("broken pipe")

// checkFailure plays an episode of four turns whose parts change has modified. After a failure the trajectory must have
// the error want and the turns before it, and the environment must be closed.
func checkFailure(t *testing.T, turns int, want string, change func(failure)) {
	t.Helper()
	w := &corridor{n: 4, reward: 1}
	d, b := newDriver(t, single(w), samplertest.Say("pull"))
	s := spec()
	change(failure{w, d, b, &s})
	got := d.Run(t.Context(), s)
	if !got.Failed() || !strings.Contains(got.Err, want) || len(got.Turns) != turns || got.EnvReturn != float64(turns) {
		t.Errorf("stop %s, err %q, %d turns, return %v; want %d turns and %q", got.Stop, got.Err, len(got.Turns),
			got.EnvReturn, turns, want)
	}
	if opened := !strings.Contains(want, "open"); opened != (w.closed == 1) {
		t.Errorf("%s: closed %d times", want, w.closed)
	}
}

func TestFailuresOfTheEnvironmentAndTheMemoryEndTheEpisode(t *testing.T) {
	f := func(turns int, want string, change func(failure)) {
		t.Helper()
		checkFailure(t, turns, want, change)
	}
	f(0, "open house-1/variation-0: broken", func(x failure) {
		x.driver.Family = family{func(context.Context, envs.Task) (envs.Episode, error) { return nil, errBroken }}
	})
	f(0, "reset house-1/variation-0: broken", func(x failure) {
		x.world.reset = func(context.Context) (envs.Observation, error) { return envs.Observation{}, errBroken }
	})
	f(1, "turn 1: step: broken", func(x failure) {
		x.world.step = func(_ context.Context, i int, _ string) (envs.Step, error) {
			if i == 1 {
				return envs.Step{}, errBroken
			}
			return envs.Step{Reward: 1}, nil
		}
	})
	f(0, "not finite", func(x failure) {
		x.world.step = func(context.Context, int, string) (envs.Step, error) { return envs.Step{Reward: math.NaN()}, nil }
	})
	f(0, "turn 0: recall tips: broken", func(x failure) {
		x.spec.Recall = func(context.Context, rollout.Query) (rollout.Recalled, error) {
			return rollout.Recalled{}, errBroken
		}
	})
}

func TestFailuresOfTheServerEndTheEpisode(t *testing.T) {
	f := func(turns int, want string, change func(failure)) {
		t.Helper()
		checkFailure(t, turns, want, change)
	}
	f(2, "turn 2: sample policy-v000001: broken", func(x failure) {
		x.server.BeforeSample = func(context.Context, sampler.Policy, sampler.Request) error {
			if len(x.server.Calls()) == 2 {
				return errBroken
			}
			return nil
		}
	})
	f(0, "version 0 answered", func(x failure) {
		x.server.AfterSample = func(c *sampler.Completion) { c.Policy.Version = 0 }
	})
	f(0, "5 ids with 4 log-probs", func(x failure) {
		x.server.AfterSample = func(c *sampler.Completion) { c.Logprobs = c.Logprobs[1:] }
	})
	f(0, "no token", func(x failure) {
		x.server.AfterSample = func(c *sampler.Completion) { c.IDs, c.Logprobs = nil, nil }
	})
	f(0, "policy is not served", func(x failure) {
		x.spec.Policy.Version = 9
	})
}

// A call that hangs ends at its deadline, and the error names the deadline.
func TestCallsHaveDeadlines(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	f := func(want string, after time.Duration, change func(*corridor, *samplertest.Scripted, *rollout.EpisodeSpec)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			w := &corridor{n: 4}
			d, b := newDriver(t, single(w), samplertest.Say("pull"))
			d.SampleTimeout, d.EnvTimeout = 7*time.Second, 11*time.Second
			s := spec()
			change(w, b, &s)
			start := time.Now()
			got := d.Run(t.Context(), s)
			if took := time.Since(start); !got.Failed() || !strings.Contains(got.Err, want) || took != after ||
				got.Took != after {
				t.Errorf("%s %q after %v (%v)", got.Stop, got.Err, took, got.Took)
			}
		})
	}
	f("sample policy-v000001: no answer within 7s", 7*time.Second,
		func(_ *corridor, b *samplertest.Scripted, _ *rollout.EpisodeSpec) {
			b.BeforeSample = func(ctx context.Context, _ sampler.Policy, _ sampler.Request) error { return hang(ctx) }
		})
	f("step: no answer within 11s", 11*time.Second, func(w *corridor, _ *samplertest.Scripted, _ *rollout.EpisodeSpec) {
		w.step = func(ctx context.Context, _ int, _ string) (envs.Step, error) { return envs.Step{}, hang(ctx) }
	})
	f("recall tips: no answer within 2m0s", 2*time.Minute,
		func(_ *corridor, _ *samplertest.Scripted, s *rollout.EpisodeSpec) {
			s.Recall = func(ctx context.Context, _ rollout.Query) (rollout.Recalled, error) {
				return rollout.Recalled{}, hang(ctx)
			}
		})
}

func TestCancelledEpisodeHasTheCause(t *testing.T) {
	d, b := newDriver(t, corridors(4), samplertest.Say("pull"))
	ctx, cancel := context.WithCancelCause(t.Context())
	b.BeforeSample = func(ctx context.Context, _ sampler.Policy, _ sampler.Request) error {
		cancel(errors.New("the operator pressed ctrl-c"))
		return ctx.Err()
	}
	if got := d.Run(ctx, spec()); !got.Failed() || !strings.Contains(got.Err, "ctrl-c") {
		t.Errorf("stop %s, err %q", got.Stop, got.Err)
	}
}

// An episode is cancelled if the cause ended it, and failed if it failed before.
func TestAnEpisodeThatIsNotAwaitedIsCancelled(t *testing.T) {
	d, b := newDriver(t, corridors(4), samplertest.Say("pull"))
	for stop, broken := range map[rollout.StopReason]bool{rollout.StopCancelled: false, rollout.StopFailed: true} {
		ctx, cancel := context.WithCancelCause(t.Context())
		b.BeforeSample = func(ctx context.Context, _ sampler.Policy, _ sampler.Request) error {
			if broken {
				return errors.New("broken")
			}
			cancel(rollout.ErrNotAwaited)
			return ctx.Err()
		}
		got := d.Run(ctx, spec())
		cancel(rollout.ErrNotAwaited)
		if got.Stop != stop || got.Err == "" {
			t.Errorf("stop %s, err %q, want %s", got.Stop, got.Err, stop)
		}
	}
}

func TestInvalidUTF8IsReplacedBeforeThePolicySeesIt(t *testing.T) {
	w := &corridor{reset: func(context.Context) (envs.Observation, error) {
		return envs.Observation{State: "a\xffb"},
			nil
	}}
	w.step = func(_ context.Context, _ int, action string) (envs.Step, error) {
		return envs.Step{Observation: envs.Observation{Feedback: action}, Terminated: true}, nil
	}
	d, b := newDriver(t, single(w), samplertest.Say("c\xffd"))
	got := d.Run(t.Context(), spec())
	if got.Turns[0].Observation.State != "a\uFFFDb" || got.Turns[0].Action != "c\uFFFDd" ||
		got.Final.Feedback != "c\uFFFDd" {
		t.Errorf("%+v, %+v", got.Turns[0], got.Final)
	}
	if !strings.Contains(b.Decode(got.RowsWithoutTips[0].Tokens), "a\uFFFDb") {
		t.Error("the policy did not see the stored text")
	}
}

// Every request has the sampling options of the spec.
func TestSamplingOptionsReachTheBackend(t *testing.T) {
	d, b := newDriver(t, single(&corridor{n: 2}), samplertest.Say("pull jade"))
	s := spec()
	s.TopP, s.TopK, s.Stop = 0.9, 40, []string{"\n"}
	if got := d.Run(t.Context(), s); len(got.Turns) != 2 {
		t.Fatalf("%d turns, %s", len(got.Turns), got.Err)
	}
	for _, call := range b.Calls() {
		if r := call.Request; r.TopP != 0.9 || r.TopK != 40 || !slices.Equal(r.Stop, s.Stop) {
			t.Errorf("request %+v", r)
		}
	}
}
