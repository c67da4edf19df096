package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/webshop"
	"github.com/empo2/empo2/orchestrator/config"
)

const shopSets = "env.webshop.data=../../../envs/webshop/testdata/shop env.webshop.own_data=true " +
	"env.webshop.items=items.json env.webshop.attributes=items_ins_v2.json env.webshop.nouns=nouns.json"

func load(t *testing.T, sets ...string) config.Config {
	t.Helper()
	c, err := config.Source{Profile: config.Demo, Sets: sets}.Load()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// empo2's WebShop, served with AgentGym's protocol, gives the same pages as the
// built-in environment.
func TestAgentGymByConfiguration(t *testing.T) {
	ctx := context.Background()
	native, err := openFamily(ctx, opening{config: load(t, append(strings.Fields(shopSets), "env.name=webshop")...)})
	if err != nil {
		t.Fatal(err)
	}
	defer native.Close()
	server := httptest.NewServer(webshop.NewHandler(native.(*webshop.Family)))
	defer server.Close()
	c := load(t, "env.name=agentgym", "env.agentgym.url="+server.URL, "env.agentgym.dialect=webshop",
		"env.agentgym.train=0-2", "env.agentgym.test=3")
	served, err := openFamily(ctx, opening{config: c})
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	tasks, err := served.Tasks(envs.Train)
	if err != nil || len(tasks) != 3 {
		t.Fatalf("%d tasks, %v", len(tasks), err)
	}
	if tests, err := served.Tasks(envs.Test); err != nil || len(tests) != 1 {
		t.Errorf("%d tests, %v", len(tests), err)
	}
	episode, err := served.Open(ctx, tasks[1])
	if err != nil {
		t.Fatal(err)
	}
	defer episode.Close()
	o, err := episode.Reset(ctx)
	if err != nil || !strings.HasPrefix(o.State, "WebShop [SEP] Instruction:") {
		t.Fatalf("%+v, %v", o, err)
	}
	step, err := episode.Step(ctx, "search[blue]")
	if err != nil || !strings.Contains(step.Observation.State, "Page 1") {
		t.Errorf("%+v, %v", step, err)
	}
	for _, wrong := range [][]string{
		{"env.name=agentgym", "env.agentgym.url=" + server.URL, "env.agentgym.dialect=sciworld", "env.agentgym.train=0"},
		{"env.name=openenv", "env.openenv.url=" + server.URL},
		{"env.name=ors", "env.ors.url=" + server.URL},
		{"env.name=remote", "env.remote.url=" + server.URL},
	} {
		_, err := openFamily(ctx, opening{config: load(t, wrong...)})
		var setup *setupError
		if !errors.As(err, &setup) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v", wrong[0], err)
		}
	}
}

// Mistakes in the texts of a table are mistakes in the configuration.
func TestInvalidTextsOfEnvironmentServers(t *testing.T) {
	f := func(place string, sets ...string) {
		t.Helper()
		_, err := openFamily(context.Background(), opening{config: load(t, sets...)})
		var fault *config.Error
		if !errors.As(err, &fault) || fault.Place != place || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v", place, err)
		}
	}
	f("env.agentgym.train", "env.name=agentgym", "env.agentgym.url=http://h", "env.agentgym.dialect=sciworld",
		"env.agentgym.train=5-3")
	f("env.ors.eval", "env.name=ors", "env.ors.url=http://h", "env.ors.eval=hard:5-3")
	f("env.ors.input", "env.name=ors", "env.ors.url=http://h", "env.ors.tool=t", "env.ors.input=[1]")
	f("env.openenv.test", "env.name=openenv", "env.openenv.url=http://h", "env.openenv.test=x")
	f("env.openenv.action", "env.name=openenv", "env.openenv.url=http://h", "env.openenv.action=[1]")
	f("env.openenv.options", "env.name=openenv", "env.openenv.url=http://h", "env.openenv.options=null")
}
