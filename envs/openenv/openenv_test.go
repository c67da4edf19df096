package openenv

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
	"github.com/empo2/empo2/envs/remote/remotetest"
	"github.com/empo2/empo2/envs/remote/template"
)

func TestConformance(t *testing.T) {
	s := remotetest.Serve(t, newFake())
	envstest.Run(t, func(t *testing.T) envs.Family { return driver.Open(t, s) })
}

func TestObservationAndReward(t *testing.T) {
	c := config(remotetest.Serve(t, newFake()))
	c.URL = "ws" + strings.TrimPrefix(c.URL, "http")
	f := remotetest.Open(t, Open, c)
	t.Cleanup(func() { f.Close() })
	first, last := remotetest.Finish(t, f)
	world := remotetest.NewWorld(1)
	if want := world.Text() + "\nnew"; first.State != want {
		t.Errorf("first state %q, want %q", first.State, want)
	}
	for range remotetest.WorldSteps {
		world.Act("go")
	}
	end := envs.Observation{Feedback: world.Text() + "\nnew"}
	want := envs.Step{Observation: end, Reward: 1, Score: 1, Success: true, Terminated: true}
	if diff := cmp.Diff(want, last); diff != "" {
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
		t.Errorf("the text of the only field is %q", got)
	}
}

func TestRefusedAtStart(t *testing.T) {
	f := remotetest.RefusedAtStart(t, Open, config)
	only := remotetest.Only
	two := newFake()
	two.action["required"] = []string{"message", "to"}
	two.action["properties"].(m)["to"] = m{"type": "integer"}
	broken := server(always("reset", "error", m{"code": "EXECUTION_ERROR", "message": "no such level"}))
	factory := server(always("reset", "error", m{"code": "FACTORY_ERROR", "message": "no display"}))
	text := m{"action": m{"required": []string{"x"}, "properties": m{"x": m{"type": "string"}}}}
	f("AgentGym", only("/", "ok"), nil, "404", `env.name = "agentgym"`)
	f("plain schema", only("/", m{"protocol": "empo2-env"}), nil, `env.name = "remote"`)
	f("other schema", only("/schema", m{"actions": 1}), nil, "lacks the schema of an action", "hint")
	f("no WebSocket", only("/schema", text), nil, "404", "no WebSocket at /ws")
	f("no server", nil, func(c *Config) { remotetest.NoServer(&c.Server) },
		"cannot be reached", "start the environment's server")
	f("two fields", two, nil, "message (string), to (integer)", `action = {"field"`)
	f("missing field", two, func(c *Config) { c.Action = m{"message": "{action}"} }, `lacks the field "to"`)
	f("unknown field", newFake(), func(c *Config) { c.Action = m{"message": "x", "text": "{action}"} },
		`no field "text"`, "message (string)")
	f("no place for the action", newFake(), func(c *Config) { c.Action = m{"message": "left"} },
		"has no {action}", "hint")
	f("no such path", newFake(), func(c *Config) { c.Observation = []string{"screen"} },
		"screen", "info, messages, prompt")
	f("reset fails", broken, nil, "EXECUTION_ERROR: no such level")
	f("factory fails", factory, nil, "FACTORY_ERROR: no display")
	f("no tasks", newFake(), func(c *Config) { c.Train = nil }, `train = "0-99"`)
	f("no url", newFake(), func(c *Config) { c.URL = "" }, "http://host:port")
	f("concurrency", newFake(), func(c *Config) { c.Concurrency = -1 }, "negative")
}

func TestDefaultTemplateByType(t *testing.T) {
	s := newFake()
	fields := m{"action_id": m{"type": "integer"}, "note": m{"type": "string"}}
	s.action = m{"required": []string{"action_id"}, "properties": fields}
	f := driver.Started(t, s)
	if diff := cmp.Diff(map[string]any{"action_id": template.JSON}, f.config.Action); diff != "" {
		t.Errorf("template (-want +got):\n%s", diff)
	}
}
