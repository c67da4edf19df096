package orchestrator

import (
	"math"
	"slices"
	"testing"

	"github.com/empo2/empo2/envs"
)

// The reference draws one mode per step: 0.75 on_policy, 0.08 on_policy_tips,
// 0.17 off_policy (EMPO², section 4).
func TestModeDraws(t *testing.T) {
	const steps = 4000
	f := func(draw string, mixedStep, mixedGroup bool) {
		t.Helper()
		c := demo()
		c.Algorithm.ModeDraw, c.Algorithm.MemoryProbability = draw, 0.25
		share := map[Mode]float64{}
		var sawMixedStep, sawMixedGroup bool
		for step := range int64(steps) {
			p := newPlan(c, []envs.Task{{ID: "a"}, {ID: "b"}}, step+1, 0)
			var all []Mode
			for _, g := range p.Groups {
				var modes []Mode
				for _, e := range g.Episodes {
					modes = append(modes, e.Mode)
					share[e.Mode] += 1 / float64(steps*p.Episodes())
				}
				sawMixedGroup = sawMixedGroup || slices.ContainsFunc(modes, func(m Mode) bool { return m != modes[0] })
				all = append(all, modes...)
			}
			sawMixedStep = sawMixedStep || slices.ContainsFunc(all, func(m Mode) bool { return m != all[0] })
		}
		if sawMixedStep != mixedStep || sawMixedGroup != mixedGroup {
			t.Errorf("%s: mixed steps %v, mixed groups %v", draw, sawMixedStep, sawMixedGroup)
		}
		for mode, want := range map[Mode]float64{OnPolicy: 0.75, OnPolicyTips: 0.25 / 3, OffPolicy: 0.5 / 3} {
			if math.Abs(share[mode]-want) > 0.02 {
				t.Errorf("%s: share of %s is %.3f, want %.3f", draw, mode, share[mode], want)
			}
		}
	}
	f("step", false, false)
	f("group", true, false)
	f("episode", true, true)
}

func TestMixedGroupsHaveTheirShareOfTips(t *testing.T) {
	c := demo()
	for _, g := range newPlan(c, []envs.Task{{ID: "a"}}, 1, 0).Groups {
		tips := 0
		for _, e := range g.Episodes {
			if e.Mode.Tips() {
				tips++
			}
		}
		if tips != c.Algorithm.GroupSize/2 {
			t.Errorf("%d of %d episodes with tips", tips, len(g.Episodes))
		}
	}
}

func TestTasksTakeTurns(t *testing.T) {
	tasks := []envs.Task{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "d"}, {ID: "e"}}
	count := map[string]int{}
	for i := range uint64(50) {
		count[taskAt(tasks, 1, i).ID]++
	}
	for id, n := range count {
		if n != 10 {
			t.Errorf("task %s came %d times in 50", id, n)
		}
	}
}

func TestSeedsDiffer(t *testing.T) {
	seen := map[uint64]bool{}
	for seed := range uint64(3) {
		c := demo()
		c.Run.Seed = seed
		for step := range int64(20) {
			for _, g := range newPlan(c, []envs.Task{{ID: "a"}}, step+1, 0).Groups {
				for _, e := range g.Episodes {
					if seen[e.Seed] {
						t.Fatal("a seed came twice")
					}
					seen[e.Seed] = true
				}
			}
		}
	}
}
