package ors

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/remote/remotetest"
)

func TestConformance(t *testing.T) {
	t.Run("one tool", func(t *testing.T) {
		s := remotetest.Serve(t, newFake())
		envstest.Run(t, func(t *testing.T) envs.Family { return driver.Open(t, s) })
	})
	t.Run("tool calls", func(t *testing.T) {
		c := config(remotetest.Serve(t, newFake()))
		c.Tool = ""
		envstest.Run(t, func(t *testing.T) envs.Family { return remotetest.Open(t, Open, c) },
			envstest.WithPolicy(func(_ envs.Task, step int, o envs.Observation) string {
				return fmt.Sprintf(`{"name": "act", "input": {"text": "%d %d"}}`, step, len(o.State))
			}))
	})
}

func TestAnEpisode(t *testing.T) {
	s := newFake()
	s.key = "secret"
	c := config(remotetest.Serve(t, s))
	c.Token = "secret"
	f := remotetest.Open(t, Open, c)
	t.Cleanup(func() { f.Close() })
	first, last := playAndClose(t, f)
	world := remotetest.NewWorld(5 << 32)
	if want := world.Text() + "\n(image image/png, which is not supported and not shown)"; first.State != want {
		t.Errorf("prompt %q, want %q", first.State, want)
	}
	for range remotetest.WorldSteps {
		world.Act("go")
	}
	end := envs.Observation{Feedback: world.Text()}
	want := envs.Step{Observation: end, Reward: 1, Score: 1, Success: true, Terminated: true}
	if diff := cmp.Diff(want, last); diff != "" {
		t.Errorf("last step (-want +got):\n%s", diff)
	}
	created, deleted := s.Calls("/create_session"), s.Calls("/delete_session")
	if s.environments() != 0 || deleted != created {
		t.Errorf("%d environments left, %d of %d sessions deleted", s.environments(), deleted, created)
	}
}

// playAndClose plays an episode whose cleanup has run when it returns.
func playAndClose(t *testing.T, f *Family) (first envs.Observation, last envs.Step) {
	t.Run("episode", func(t *testing.T) { first, last = remotetest.Finish(t, f) })
	return first, last
}

func TestTasks(t *testing.T) {
	f := func(train, eval, test string, want map[envs.Split]string) {
		t.Helper()
		c := config(remotetest.Serve(t, newFake()))
		for text, set := range map[string]*Set{train: &c.Train, eval: &c.Eval, test: &c.Test} {
			*set = Set{}
			if err := set.UnmarshalText([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		family := remotetest.Open(t, Open, c)
		defer family.Close()
		for split, ids := range want {
			tasks, err := family.Tasks(split)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, task := range tasks {
				got = append(got, task.ID)
			}
			if strings.Join(got, " ") != ids {
				t.Errorf("%s of %q, %q, %q: %q, want %q", split, train, eval, test, got, ids)
			}
		}
	}
	f("1,0", "", "test:", map[envs.Split]string{
		envs.Train: "train-1 train-0", envs.Eval: "train-1 train-0", envs.Test: "test-0 test-1",
	})
	f("hard:", "hard: 1", "0", map[envs.Split]string{
		envs.Train: "hard-0 hard-1 hard-2", envs.Eval: "hard-1", envs.Test: "test-0",
	})
	f("", "hard:2", "hard:0-1", map[envs.Split]string{
		envs.Train: "train-0 train-1 train-2 train-3 train-4 train-5", envs.Test: "hard-0 hard-1",
	})
}

func TestInstructionsListTheTools(t *testing.T) {
	f := func(tool, want string) {
		t.Helper()
		c := config(remotetest.Serve(t, newFake()))
		c.Tool = tool
		family := remotetest.Open(t, Open, c)
		defer family.Close()
		tasks, err := family.Tasks(envs.Test)
		if err != nil || tasks[0].Instruction != want {
			t.Errorf("instruction %q, error %v; want %q", tasks[0].Instruction, err, want)
		}
	}
	f("act", "What you answer is given to the tool act: Do something.")
	f("", `Act by calling a tool. Answer with one JSON object: {"name": "TOOL", "input": {…}}. The tools:
- act: Do something. Input: {"properties":{"text":{"type":"string"}},"required":["text"],"type":"object"}
- bell: Ring. No input.
- move: Go. Input: {"properties":{"fast":{"type":"boolean"},"to":{"type":"string"}},"required":["to","fast"]}`)
}

func TestCallsOfThePolicy(t *testing.T) {
	f := func(action, want, reason string) {
		t.Helper()
		c, got := actions{}.call(action)
		if reason != "" {
			if !strings.Contains(got, reason) {
				t.Errorf("%q: reason %q, want one with %q", action, got, reason)
			}
			return
		}
		raw, err := json.Marshal(c)
		if err != nil || got != "" || string(raw) != want {
			t.Errorf("%q: %s, %q, error %v; want %s", action, raw, got, err, want)
		}
	}
	f(`{"name": "act", "input": {"n": [1]}}`, `{"name":"act","input":{"n":[1]}}`, "")
	f("I will.\n```json\n{\"name\": \"act\"}\n```", `{"name":"act","input":{}}`, "")
	f(`<tool_call>{"name": "act", "arguments": {"x": "}"}}</tool_call>`, `{"name":"act","input":{"x":"}"}}`, "")
	f("{\"name\": \"act\", \"input\": {\"x\": \"\xff\"}}", "{\"name\":\"act\",\"input\":{\"x\":\"\uFFFD\"}}", "")
	f("pull lever", "", `Answer with one JSON object: {"name"`)
	f("} {", "", "no tool call")
	f(`{"name": "act", "input": }`, "", "invalid character")
	f(`{"name": "act", "input": "x"}`, "", "no tool call")
	f(`{"input": {}}`, "", "lacks the tool's name")
}

func TestRefusedAtStart(t *testing.T) {
	f := remotetest.RefusedAtStart(t, Open, config)
	only := remotetest.Only
	locked := newFake()
	locked.key = "k"
	broken := server("/prompt", 0, 0, func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusInternalServerError, "RuntimeError: no display")
	})
	set := func(split string, numbers ...uint64) Set { return Set{Split: split, Numbers: numbers} }
	f("AgentGym", only("/", "ok"), nil, "404", `env.name = "agentgym"`)
	f("OpenEnv", only("/health", m{"status": "healthy"}), nil, "404", `env.name = "openenv"`)
	f("other list", only("/list_environments", m{"a": 1}), nil, "not a list of names", "hint")
	f("no server", nil, func(c *Config) { remotetest.NoServer(&c.Server) },
		"cannot be reached", "start the environment's server")
	f("no key", locked, nil, "401", "no key", "check the key")
	f("wrong environment", newFake(), func(c *Config) { c.Environment = "hut" },
		`no environment "hut"`, `environment = "house"`)
	f("several environments", only("/list_environments", []string{"a", "b"}), nil,
		`environment = "a", or another of ["a" "b"]`)
	f("unknown split", newFake(), func(c *Config) { c.Eval = set("", 0) },
		`eval: the environment house has no split "validation"`, `["train" "hard" "test"]`, "hint")
	f("no such task", newFake(), func(c *Config) { c.Train = set("hard", 1, 3) },
		`the split "hard" has no task 3`, "0 to 2")
	f("a task twice", newFake(), func(c *Config) { c.Train = set("", 1, 1) },
		"train has the task train-1 twice")
	f("train and test", newFake(), func(c *Config) { c.Test = set("train", 2) },
		"train-2 is in train and in test")
	f("unknown tool", newFake(), func(c *Config) { c.Tool = "pull" }, `no tool "pull"`, `["act" "bell" "move"]`)
	f("tool without input", newFake(), func(c *Config) { c.Tool = "bell" }, "takes no input", "hint")
	f("two fields", newFake(), func(c *Config) { c.Tool = "move" },
		"fast (boolean), to (string)", `input = {"field": "{action}"}`)
	f("missing field", newFake(), func(c *Config) { c.Tool, c.Input = "move", m{"to": "{action}"} },
		`lacks the field "fast"`)
	f("input without tool", newFake(), func(c *Config) { c.Tool, c.Input = "", m{"to": "{action}"} },
		"no effect")
	f("set-up fails", broken, nil, "GET /house/prompt", "500", "RuntimeError: no display")
	f("no url", newFake(), func(c *Config) { c.URL = "" }, "http://host:port")
	f("concurrency", newFake(), func(c *Config) { c.Concurrency = -1 }, "negative")
	f("bad numbers", newFake(), func(c *Config) { c.Train = Set{Numbers: numbered.Set{7}} },
		"has no task 7")
}
