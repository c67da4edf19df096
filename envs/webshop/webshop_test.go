package webshop

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
)

// shopConfig is the configuration of the synthetic catalogue.
func shopConfig() Config {
	return Config{DataDir: filepath.Join("testdata", "shop"), Items: "items.json", Attributes: "items_ins_v2.json",
		Nouns: "nouns.json", OwnData: true, Seed: 42, MaxSteps: 15}
}

// browse searches, clicks and buys.
func browse(_ envs.Task, step int, o envs.Observation) string {
	switch fields := strings.Split(o.State, " [SEP] "); {
	case strings.HasSuffix(o.State, "[SEP] Search"):
		return "search[" + fields[2] + "]"
	case strings.Contains(o.State, "Total results") && len(fields) > 6:
		return "click[" + fields[5+3*(step%2)] + "]"
	case step%4 == 3:
		return "click[Buy Now]"
	}
	return "click[Description]"
}

func TestConformance(t *testing.T) {
	envstest.Run(t, func(t *testing.T) envs.Family {
		f, err := Open(t.Context(), shopConfig())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}, envstest.WithPolicy(browse))
}

func TestSplitsEqualTheOriginal(t *testing.T) {
	f := func(mode SeedMode, goals int, split envs.Split, wantFirst, wantLast int) {
		t.Helper()
		family := &Family{config: Config{SeedMode: mode}, goals: &goalSet{goals: make([]goal, goals)}}
		first, last, err := family.bounds(split)
		if err != nil || first != wantFirst || last != wantLast {
			t.Errorf("%s of %d goals, %s: %d to %d, %v, want %d to %d",
				mode, goals, split, first, last, err, wantFirst, wantLast)
		}
	}
	f(Verl, 6910, envs.Train, 500, 6910)
	f(Verl, 6910, envs.Eval, 0, 500)
	f(Verl, 6910, envs.Test, 0, 500)
	f(Princeton, 12087, envs.Train, 1500, 12087)
	f(Princeton, 12087, envs.Eval, 500, 1500)
	f(Princeton, 12087, envs.Test, 0, 500)
	f(Verl, 13, envs.Train, 3, 13)
	f(Verl, 13, envs.Eval, 3, 13)
	f(Verl, 13, envs.Test, 0, 3)
	f(Princeton, 1500, envs.Test, 0, 375)
}

func TestPrincetonSeedsOnlyTheShuffle(t *testing.T) {
	goals := func(seed uint64) (asins []string, limits []int32) {
		c := shopConfig()
		c.SeedMode, c.Seed = Princeton, seed
		f := openFamily(t, c)
		for _, g := range f.goals.goals {
			asins = append(asins, f.shop.catalogue.heads[g.product].asin)
			limits = append(limits, g.limit)
		}
		return asins, limits
	}
	asins1, limits1 := goals(1)
	asins2, limits2 := goals(2)
	if diff := cmp.Diff(asins1, asins2); diff != "" {
		t.Errorf("the order of the goals depends on the seed:\n%s", diff)
	}
	if cmp.Equal(limits1, limits2) {
		t.Error("the price limits do not depend on the seed")
	}
}

func TestSuccessfulPurchase(t *testing.T) {
	c := shopConfig()
	c.Reward = SuccessReward
	f := openFamily(t, c)
	tasks, err := f.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for !strings.Contains(tasks[i].Instruction, "caffeine free tea") {
		i++
	}
	last := play(t, f, tasks[i], "search[rooibos tea]", "click[TEA0000002]", "click[buy now]")
	if !last.Success || last.Score != 100 || last.Reward != 10 || !last.Terminated || last.Observation.State != "" ||
		!strings.Contains(last.Observation.Feedback, "Your score (min 0.0, max 1.0) [SEP] 1.0") {
		t.Errorf("the wanted tea was bought, got %+v", last)
	}
}

func play(t *testing.T, f *Family, task envs.Task, actions ...string) (last envs.Step) {
	t.Helper()
	e, err := f.Open(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range actions {
		if last, err = e.Step(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

func TestStepsAreLimited(t *testing.T) {
	c := shopConfig()
	c.MaxSteps = 2
	f := openFamily(t, c)
	tasks, err := f.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	last := play(t, f, tasks[0], "think[what to buy]", "search[lamp]")
	if !last.Truncated || last.Terminated || last.Success || last.Observation.State != "" {
		t.Errorf("second of 2 steps = %+v, want it truncated", last)
	}
}

// TestProductsInTheFile reads products from the file when they are shown, like in the
// full catalogue.
func TestProductsInTheFile(t *testing.T) {
	small := shopConfig()
	large := small
	large.ResidentBytes = 1
	a, b := openFamily(t, small), openFamily(t, large)
	if b.shop.catalogue.resident != nil {
		t.Fatal("the products are in memory")
	}
	for i := range a.shop.catalogue.heads {
		want, _ := a.shop.catalogue.product(int32(i))
		got, err := b.shop.catalogue.product(int32(i))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(product{}, optionGroup{})); diff != "" {
			t.Errorf("product %d (-memory +file):\n%s", i, diff)
		}
	}
}

func TestNoActionIsAnError(t *testing.T) {
	f := openFamily(t, shopConfig())
	goals := len(f.goals.goals)
	rapid.Check(t, func(t *rapid.T) {
		s, err := f.session(rapid.IntRange(0, goals-1).Draw(t, "goal"), "x", 1)
		if err != nil {
			t.Fatal(err)
		}
		s.open()
		words := rapid.SampledFrom([]string{"<r>", "<a> easy clean", "<c>", "<c> garden", "<q> mugs", "mug",
			"search_results",
			"item_page steel", "item_sub_page", "done lamp", "茶", "[x]", "\xff"})
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			action := "search[" + words.Draw(t, "words") + "]"
			if names := s.page.names(); len(names) > 0 && rapid.Bool().Draw(t, "click") {
				action = "click[" + rapid.SampledFrom(names).Draw(t, "name") + "]"
			}
			if _, _, err := s.act(action); err != nil {
				t.Fatalf("%q: %v", action, err)
			}
			if s.observe() == "" {
				t.Fatalf("%q: an empty page", action)
			}
		}
	})
}

func TestOpenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, shopConfig()); err == nil {
		t.Error("a family was opened although the context has ended")
	}
}
