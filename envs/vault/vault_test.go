package vault

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testConfig() Config {
	return Config{Houses: []uint64{701, 702}, Doors: 4, Levers: 8, Score: Sparse,
		TrainVariations: 4, TestVariations: 4}
}

func mustOpen(t rapid.TB, c Config) *Family {
	t.Helper()
	f, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConformance(t *testing.T) {
	t.Run("blind", func(t *testing.T) {
		envstest.Run(t, func(t *testing.T) envs.Family { return mustOpen(t, testConfig()) })
	})
	t.Run("solving", func(t *testing.T) {
		f := mustOpen(t, testConfig())
		envstest.Run(t, func(t *testing.T) envs.Family { return f },
			envstest.WithPolicy(func(task envs.Task, step int, _ envs.Observation) string {
				actions, err := f.Solve(t.Context(), task)
				if err != nil {
					return err.Error()
				}
				return actions[step%len(actions)]
			}))
	})
}

// playTexts plays actions and returns the observations as texts, the last step, and
// the return.
func playTexts(
	t *testing.T, f *Family, task envs.Task, actions ...string,
) (texts []string, last envs.Step, sum float64) {
	t.Helper()
	e, err := f.Open(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	obs, err := e.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	texts = append(texts, obs.State)
	for _, action := range actions {
		if last, err = e.Step(t.Context(), action); err != nil {
			t.Fatal(err)
		}
		sum += last.Reward
		texts = append(texts, last.Observation.Feedback)
		if last.Observation.State != "" {
			texts = append(texts, last.Observation.State)
		}
	}
	return texts, last, sum
}

func TestHouse701IsFixed(t *testing.T) {
	f := mustOpen(t, testConfig())
	tasks, err := f.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	actions, err := f.Solve(t.Context(), tasks[2])
	if err != nil {
		t.Fatal(err)
	}
	texts, last, sum := playTexts(t, f, tasks[2], actions...)
	want := []string{
		"Levers: bone, lead, moss, reed, tin, opal, jade, wax. Door 1 of 4 is chalk.",
		"It opens.",
		"Levers: amber, salt, reed, lead, horn, bone, moss, wax. Door 2 of 4 is copper.",
		"It opens.",
		"Levers: amber, jade, salt, opal, lead, bone, horn, reed. Door 3 of 4 is cedar.",
		"It opens.",
		"Levers: ruby, tin, reed, jade, horn, bone, amber, salt. Door 4 of 4 is velvet.",
		"It opens. You are out. Score 100.",
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("the episode of %s (-want +got):\n%s", tasks[2].ID, diff)
	}
	if sum != 1 || !last.Success || !last.Terminated || last.Score != 100 {
		t.Errorf("return %v after %+v, want 1 and success", sum, last)
	}
}

func TestEndings(t *testing.T) {
	c := testConfig()
	c.Doors, c.Score = 3, Partial
	f := mustOpen(t, c)
	task := f.train[0]
	actions, err := f.Solve(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	right := strings.TrimPrefix(actions[1], "pull ")
	wrong := ""
	for _, lever := range f.houses[701].corridor(0, c.Doors, c.Levers).listed[1] {
		if lever != right {
			wrong = lever
		}
	}
	check := func(action, feedback string) {
		t.Helper()
		texts, last, sum := playTexts(t, f, task, actions[0], action)
		if got := texts[len(texts)-1]; got != feedback {
			t.Errorf("%q has the answer %q, want %q", action, got, feedback)
		}
		if !last.Terminated || last.Success || sum != 1./3 || last.Score != 100./3 {
			t.Errorf("%q: return %v after %+v", action, sum, last)
		}
	}
	check("pull "+wrong, "An alarm rings. The walk is over. Score 33.")
	for _, malformed := range []string{
		"", "pull", "pull ", "pull  " + right, "Pull " + right, right, "pull " + right + ".",
		"pull " + right + "\nlook", "pull door", "pull iron", "push " + right,
	} {
		check(malformed, "Nothing happens. The walk is over. Score 33.")
	}
	if texts, _, _ := playTexts(t, f, task, " "+actions[0]+"\n"); texts[1] != "It opens." {
		t.Errorf("space around an action has the answer %q", texts[1])
	}
}

func TestSparseRewardsOnlyTheExit(t *testing.T) {
	f := mustOpen(t, testConfig())
	actions, err := f.Solve(t.Context(), f.train[0])
	if err != nil {
		t.Fatal(err)
	}
	texts, last, sum := playTexts(t, f, f.train[0], append(actions[:3:3], "pull nothing")...)
	if got := texts[len(texts)-1]; got != "Nothing happens. The walk is over. Score 0." {
		t.Errorf("feedback %q", got)
	}
	if sum != 0 || last.Score != 0 {
		t.Errorf("return %v, score %v, want 0", sum, last.Score)
	}
}

func TestCorridors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHouse(rapid.Uint64().Draw(t, "house"))
		k := rapid.IntRange(1, houseDoors).Draw(t, "doors")
		m := rapid.IntRange(2, houseLevers).Draw(t, "levers")
		per := (houseDoors + k - 1) / k
		deck := uint64(rapid.IntRange(0, 1000).Draw(t, "deck"))
		seen := map[string]bool{}
		for v := deck * uint64(per); v < (deck+1)*uint64(per); v++ {
			c := h.corridor(v, k, m)
			if diff := cmp.Diff(c, h.corridor(v, k, m), cmp.AllowUnexported(corridor{})); diff != "" {
				t.Fatalf("variation %d is not fixed:\n%s", v, diff)
			}
			if len(c.doors) != k || len(slices.Compact(slices.Sorted(slices.Values(c.doors)))) != k {
				t.Fatalf("variation %d has doors %v, want %d distinct ones", v, c.doors, k)
			}
			for i, door := range c.doors {
				seen[door] = true
				checkDoor(t, h, c, i, m)
			}
		}
		if len(seen) != houseDoors {
			t.Errorf("%d variations show %d doors of %d", per, len(seen), houseDoors)
		}
	})
}

func checkDoor(t *rapid.T, h house, c corridor, i, m int) {
	listed := c.listed[i]
	if len(listed) != m || len(slices.Compact(slices.Sorted(slices.Values(listed)))) != m {
		t.Fatalf("listed %v, want %d distinct levers", listed, m)
	}
	if c.right[i] != h.rule[c.doors[i]] || !slices.Contains(listed, c.right[i]) {
		t.Fatalf("the right lever of %s is %s, rule %s, listed %v",
			c.doors[i], c.right[i], h.rule[c.doors[i]], listed)
	}
	for _, lever := range listed {
		if !slices.Contains(h.levers, lever) {
			t.Fatalf("%s is no lever of the house", lever)
		}
	}
}

func TestEveryHouseIsInTheClassForReinforcementLearning(t *testing.T) {
	for seed := range uint64(500) {
		if c := canonical(newHouse(seed).rule); fingerprint(c)%4 != 3 {
			t.Fatalf("house %d is of class %d", seed, fingerprint(c)%4)
		}
	}
}

func TestRightLeversAreSpreadOverTheList(t *testing.T) {
	const doors, m = 4000, 8
	var at [m]int
	for seed := range uint64(doors / 4) {
		c := newHouse(seed).corridor(seed, 4, m)
		for i, listed := range c.listed {
			at[slices.Index(listed, c.right[i])]++
		}
	}
	for i, n := range at {
		if n < doors/m*7/10 || n > doors/m*13/10 {
			t.Errorf("the right lever is at place %d in %d of %d lists", i, n, doors)
		}
	}
}

func TestOpenRefusesBadConfigs(t *testing.T) {
	f := func(change func(*Config), want string) {
		t.Helper()
		c := testConfig()
		change(&c)
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	f(func(c *Config) { c.Houses = nil }, "no house")
	f(func(c *Config) { c.Houses = []uint64{1, 2, 1} }, "twice")
	f(func(c *Config) { c.Doors = 9 }, "doors = 9, want 1 to 8")
	f(func(c *Config) { c.Levers = 1 }, "levers = 1, want 2 to 12")
	f(func(c *Config) { c.Score = "dense" }, `score = "dense"`)
	f(func(c *Config) { c.TrainVariations = 0 }, "train variations = 0")
	f(func(c *Config) { c.TestVariations = -1 }, "test variations = -1")
}

func TestSplits(t *testing.T) {
	f := mustOpen(t, testConfig())
	ids := func(split envs.Split) (ids []string) {
		tasks, err := f.Tasks(split)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			ids = append(ids, task.ID)
		}
		return ids
	}
	want := func(from, to int) (ids []string) {
		for _, house := range []string{"house-701", "house-702"} {
			for v := from; v < to; v++ {
				ids = append(ids, house+"/variation-"+strconv.Itoa(v))
			}
		}
		return ids
	}
	for split, want := range map[envs.Split][]string{
		envs.Train: want(0, 4), envs.Eval: want(0, 4), envs.Test: want(4, 8),
	} {
		if diff := cmp.Diff(want, ids(split)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", split, diff)
		}
	}
}
