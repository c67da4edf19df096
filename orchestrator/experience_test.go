package orchestrator

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

func TestTheMemoryGetsWhatEachTurnShowedAndDid(t *testing.T) {
	got := experienceOf(rollout.Trajectory{
		Memory: true, EnvReturn: 1.5, Score: 75, Success: true, Tip: "Pull jade.", TipVersion: 2,
		Turns: []rollout.Turn{
			{Observation: envs.Observation{State: "a hall"}, Action: "think <action>north</action>", Taken: "north",
				Reward: 0.5, Tips: []prompt.Tip{{ID: 7}, {ID: 3}}},
			{Observation: envs.Observation{State: "a cellar"}, Action: "pull jade", Reward: 1},
		},
	}, "house")
	want := memory.Experience{
		Scope: "house", States: []string{"a hall", "a cellar"}, Return: 1.5, Success: true, Memory: true,
		Turns: []memory.Turn{{Action: "north", Reward: 0.5, Shown: []int64{7, 3}}, {Action: "pull jade", Reward: 1}},
		Tip:   memory.Tip{Text: "Pull jade.", Score: 75, Version: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("experience (-want +got):\n%s", diff)
	}
}

func TestReturnWithoutTipsIsThatOfEpisodesThatSawNone(t *testing.T) {
	saw := []rollout.Turn{{}, {Tips: []prompt.Tip{{ID: 1}}}}
	f := func(want float64, group ...rollout.Trajectory) {
		t.Helper()
		switch got := returnWithoutTips(group); {
		case got == nil && want >= 0, got != nil && *got != want:
			t.Errorf("return without tips %v, want %v", got, want)
		}
	}
	f(-1, rollout.Trajectory{EnvReturn: 1, Turns: saw})
	f(-1, rollout.Trajectory{EnvReturn: 1, Stop: rollout.StopFailed})
	f(0.25, rollout.Trajectory{EnvReturn: 1, Turns: saw}, rollout.Trajectory{EnvReturn: 0.5},
		rollout.Trajectory{}, rollout.Trajectory{EnvReturn: 9, Stop: rollout.StopFailed})
}
