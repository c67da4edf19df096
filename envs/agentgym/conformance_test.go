package agentgym

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/remote/remotetest"
	"github.com/empo2/empo2/envs/webshop"
)

func TestConformance(t *testing.T) {
	for _, dialect := range []string{"sciworld", "weather"} { // ids in an object, bare ids
		t.Run(dialect, func(t *testing.T) {
			s := remotetest.Serve(t, newFake(dialect))
			envstest.Run(t, func(t *testing.T) envs.Family { return driver(dialect).Open(t, s) })
		})
	}
}

// The native shop serves AgentGym's protocol, so the driver and the server check
// each other.
func TestConformanceOfTheNativeShop(t *testing.T) {
	shop, err := webshop.Open(t.Context(), webshop.Config{
		DataDir: "../webshop/testdata/shop", Items: "items.json", Attributes: "items_ins_v2.json",
		Nouns: "nouns.json", OwnData: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer shop.Close()
	s := remotetest.Serve(t, webshop.NewHandler(shop))
	envstest.Run(t, func(t *testing.T) envs.Family { return driver("webshop").Open(t, s) },
		envstest.WithPolicy(func(_ envs.Task, step int, o envs.Observation) string {
			if words := strings.Fields(o.State); step%4 == 0 {
				return "search[" + words[len(words)/2] + "]"
			}
			parts := strings.Split(o.State, " [SEP] ")
			return "click[" + parts[(5*step)%len(parts)] + "]"
		}))
}

func TestTextsRewardsAndSuccess(t *testing.T) {
	f := func(dialect, first string, reward, score float64) {
		t.Run(dialect, func(t *testing.T) {
			o, last := remotetest.Finish(t, driver(dialect).Started(t, newFake(dialect)))
			if o.State != first {
				t.Errorf("first state %q, want %q", o.State, first)
			}
			want := envs.Step{Observation: last.Observation, Reward: reward, Score: score, Success: true, Terminated: true}
			if diff := cmp.Diff(want, last); diff != "" {
				t.Errorf("last step (-want +got):\n%s", diff)
			}
		})
	}
	room := remotetest.NewWorld(1).Text()
	f("sciworld", "Boil it.\n"+room, 100, 100)
	f("alfworld", room+"\nAvailable actions: look, go to desk 1", 1, 1)
	f("wordle", room, 1, 1)
	f("webshop", room, 1, 1)
	f("weather", room, 1, 1)
}

func TestDialectsAreComplete(t *testing.T) {
	if len(Dialects()) != 14 {
		t.Errorf("dialects %v", Dialects())
	}
	for name, d := range dialects {
		named := d.greeting != "" && d.id != "" && d.index != "" && d.text != "" && d.instruction != ""
		if !named || d.create == nil || d.judge == "score" && d.score == "" {
			t.Errorf("%s lacks something: %+v", name, d)
		}
		_, s, err := lookup(name, numbered.Splits{})
		if hasDefaults := len(s.Train) > 0 && len(s.Test) > 0; err != nil || hasDefaults != (d.splits != nil) {
			t.Errorf("%s: default splits of %d and %d tasks, error %v", name, len(s.Train), len(s.Test), err)
		}
	}
}
