package openenv

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/template"
)

func TestConformance(t *testing.T) {
	s := serve(t, newFake())
	envstest.Run(t, func(t *testing.T) envs.Family { return mustOpen(t, config(s)) })
}

func TestObservationAndReward(t *testing.T) {
	c := config(serve(t, newFake()))
	c.URL = "ws" + strings.TrimPrefix(c.URL, "http")
	f := mustOpen(t, c)
	defer f.Close()
	e, o := begin(t, f)
	defer e.Close()
	world := exchangetest.NewWorld(1)
	if want := world.Text() + "\nnew"; o.State != want {
		t.Errorf("first state %q, want %q", o.State, want)
	}
	var step envs.Step
	for range exchangetest.WorldSteps {
		world.Act("go")
		var err error
		if step, err = e.Step(t.Context(), "go"); err != nil {
			t.Fatal(err)
		}
	}
	want := envs.Step{Observation: envs.Observation{Feedback: world.Text() + "\nnew"}, Reward: 1, Score: 1, Success: true, Terminated: true}
	if diff := cmp.Diff(want, step); diff != "" {
		t.Errorf("last step (-want +got):\n%s", diff)
	}
}

func TestPaths(t *testing.T) {
	var o map[string]any
	if err := json.Unmarshal([]byte(`{"a": "text", "b": [{"c": 1}, {"c": "<2>"}], "n": null}`), &o); err != nil {
		t.Fatal(err)
	}
	f := func(want string, wantFound bool, paths ...string) {
		t.Helper()
		if got, found := show(o, paths); got != want || found != wantFound {
			t.Errorf("%q: %q, %v; want %q, %v", paths, got, found, want, wantFound)
		}
	}
	f(`{"a":"text","b":[{"c":1},{"c":"<2>"}],"n":null}`, true)
	f("text\n<2>", true, "a", "b.-1.c")
	f("1", true, "b.0.c", "n")
	f(`{"c":1}`, true, "b.0")
	f("", false, "x", "b.2", "b.-3", "b.c", "a.0")
	if got, _ := show(m{"only": "this"}, nil); got != "this" {
		t.Errorf("the only field shows %q", got)
	}
}

func TestRefusedAtStart(t *testing.T) {
	f := func(name string, h http.Handler, change func(*Config), want ...string) {
		t.Run(name, func(t *testing.T) {
			c := config(serve(t, h))
			if change != nil {
				change(&c)
			}
			family, err := Open(t.Context(), c)
			if err == nil {
				family.Close()
				t.Fatal("opened")
			}
			for _, part := range want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}
	only := func(path string, body any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != path {
				http.NotFound(w, r)
				return
			}
			_ = json.NewEncoder(w).Encode(body)
		}
	}
	two := newFake()
	two.action["required"] = []string{"message", "to"}
	two.action["properties"].(m)["to"] = m{"type": "integer"}
	broken := newFake()
	broken.before = reply("reset", 0, forEver, "error", m{"code": "EXECUTION_ERROR", "message": "no such level"})
	factory := newFake()
	factory.before = reply("reset", 0, forEver, "error", m{"code": "FACTORY_ERROR", "message": "no display"})
	f("AgentGym", only("/", "ok"), nil, "404", `env.name = "agentgym"`)
	f("plain schema", only("/", m{"protocol": "empo2-env"}), nil, `env.name = "remote"`)
	f("other schema", only("/schema", m{"actions": 1}), nil, "lacks the schema of an action", "hint")
	f("no WebSocket", only("/schema", m{"action": m{"required": []string{"x"}, "properties": m{"x": m{"type": "string"}}}}), nil, "404", "no WebSocket at /ws")
	f("no server", nil, func(c *Config) { c.Dial = exchangetest.Refuse }, "cannot be reached", "start the environment's server")
	f("two fields", two, nil, "message (string), to (integer)", `action = {"field"`)
	f("missing field", two, func(c *Config) { c.Action = m{"message": "{action}"} }, `lacks the field "to"`)
	f("unknown field", newFake(), func(c *Config) { c.Action = m{"message": "x", "text": "{action}"} }, `no field "text"`, "message (string)")
	f("no place for the action", newFake(), func(c *Config) { c.Action = m{"message": "left"} }, "lacks the action", "hint")
	f("no such path", newFake(), func(c *Config) { c.Observation = []string{"screen"} }, "screen", "info, messages, prompt")
	f("reset fails", broken, nil, "EXECUTION_ERROR: no such level")
	f("factory fails", factory, nil, "FACTORY_ERROR: no display")
	f("no tasks", newFake(), func(c *Config) { c.Train = nil }, `train = "0-99"`)
	f("no url", newFake(), func(c *Config) { c.URL = "" }, "http://host:port")
	f("episodes", newFake(), func(c *Config) { c.Episodes = -1 }, "negative")
}

func TestDefaultTemplateByType(t *testing.T) {
	s := newFake()
	s.action = m{"required": []string{"action_id"}, "properties": m{"action_id": m{"type": "integer"}, "note": m{"type": "string"}}}
	f, err := Open(t.Context(), config(serve(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if diff := cmp.Diff(map[string]any{"action_id": template.JSON}, f.config.Action); diff != "" {
		t.Errorf("template (-want +got):\n%s", diff)
	}
}
