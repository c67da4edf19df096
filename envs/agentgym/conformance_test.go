package agentgym

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/webshop"
)

func TestConformance(t *testing.T) {
	for _, dialect := range []string{"sciworld", "weather"} { // an object's and a bare number's
		t.Run(dialect, func(t *testing.T) {
			s := serve(t, newFake(dialect))
			envstest.Run(t, func(t *testing.T) envs.Family { return mustOpen(t, config(dialect, s)) })
		})
	}
}

// The native shop speaks the protocol of AgentGym's, so that the driver and
// the server are checks of each other.
func TestConformanceOfOurShop(t *testing.T) {
	shop, err := webshop.Open(t.Context(), webshop.Config{
		DataDir: "../webshop/testdata/shop", Items: "items.json", Attributes: "items_ins_v2.json", Nouns: "nouns.json", OwnData: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer shop.Close()
	c := config("webshop", serve(t, webshop.NewHandler(shop)))
	envstest.Run(t, func(t *testing.T) envs.Family { return mustOpen(t, c) },
		envstest.WithPolicy(func(_ envs.Task, step int, o envs.Observation) string {
			if words := strings.Fields(o.State); step%4 == 0 {
				return "search[" + words[len(words)/2] + "]"
			}
			parts := strings.Split(o.State, " [SEP] ")
			return "click[" + parts[(5*step)%len(parts)] + "]"
		}))
}

// step plays an episode to its end and returns its first observation and the
// last step.
func finish(t *testing.T, f *Family) (envs.Observation, envs.Step) {
	t.Helper()
	e, first := begin(t, f)
	for range exchangetest.WorldSteps - 1 {
		if step, err := e.Step(t.Context(), "go"); err != nil || step.Done() {
			t.Fatalf("step %+v, error %v", step, err)
		}
	}
	last, err := e.Step(t.Context(), "go")
	if err != nil {
		t.Fatal(err)
	}
	return first, last
}

func begin(t *testing.T, f *Family) (envs.Episode, envs.Observation) {
	t.Helper()
	tasks, err := f.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	e, err := f.Open(t.Context(), tasks[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	o, err := e.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e, o
}

func TestTextsRewardsAndSuccess(t *testing.T) {
	f := func(dialect, first string, reward, score float64) {
		t.Run(dialect, func(t *testing.T) {
			family := mustOpen(t, config(dialect, serve(t, newFake(dialect))))
			t.Cleanup(func() { family.Close() })
			o, last := finish(t, family)
			if o.State != first {
				t.Errorf("first state %q, want %q", o.State, first)
			}
			want := envs.Step{Observation: last.Observation, Reward: reward, Score: score, Success: true, Terminated: true}
			if diff := cmp.Diff(want, last); diff != "" {
				t.Errorf("last step (-want +got):\n%s", diff)
			}
		})
	}
	room := exchangetest.NewWorld(1).Text()
	f("sciworld", "Boil it.\n"+room, 100, 100)
	f("alfworld", room+"\nAvailable actions: look, go to desk 1", 1, 1)
	f("wordle", room, 1, 1)
	f("webshop", room, 1, 1)
	f("weather", room, 1, 1)
}

func TestDialectsAreWhole(t *testing.T) {
	if len(Dialects()) != 14 {
		t.Errorf("dialects %v", Dialects())
	}
	for name, d := range dialects {
		if d.greeting == "" || d.id == "" || d.index == "" || d.text == "" || d.create == nil || d.instruction == "" || d.judge == "score" && d.score == "" {
			t.Errorf("%s lacks something: %+v", name, d)
		}
		if _, s, err := lookup(name, numbered.Splits{}); err != nil || (d.splits != nil) != (len(s.Train) > 0 && len(s.Test) > 0) {
			t.Errorf("%s: default splits of %d and %d tasks, error %v", name, len(s.Train), len(s.Test), err)
		}
	}
}
