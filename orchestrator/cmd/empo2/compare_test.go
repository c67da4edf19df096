package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
)

// alternating is a remote environment of one turn. Every second episode succeeds.
func alternating() http.Handler {
	var episodes atomic.Int64
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"id": fmt.Sprint(episodes.Add(1)), "observation": "Say something."})
	})
	mux.HandleFunc("POST /step", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ ID string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		reward := 0.0
		if strings.ContainsAny(in.ID[len(in.ID)-1:], "02468") {
			reward = 1
		}
		answer(w, map[string]any{"observation": "Done.", "reward": reward, "terminated": true, "truncated": false,
			"info": map[string]any{"success": reward == 1}})
	})
	return mux
}

func TestSplitSets(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		if got := splitSets(text); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	f("")
	f("a.b=1", "a.b=1")
	f("a.b=1,c.d=x", "a.b=1", "c.d=x")
	f(`a=["x","y,z"],b=[[1,2],[3]]`, `a=["x","y,z"]`, `b=[[1,2],[3]]`)
	f(`a="x,\",y",b='p,q'`, `a="x,\",y"`, `b='p,q'`)
	f(`a="x\\",b=1`, `a="x\\"`, "b=1")
	f("a=1,,b=2", "a=1", "", "b=2")
	f("a=1,", "a=1", "")
	f("a={x=1,y=2}", "a={x=1,y=2}")
}

// A built-in arm has the configuration that it always had: that of the user with
// the arm's keys, and everything else as it was.
func TestBuiltInArmsChangeTheirKeysOnly(t *testing.T) {
	t.Chdir(t.TempDir())
	cmd := compareCmd{common: common{Profile: config.Demo}, Out: "out"}
	base, err := cmd.load()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range builtInArms {
		got, err := cmd.config(job{a, 3, true}, 0, unnoted)
		if err != nil {
			t.Fatal(err)
		}
		sets := append([]string{"run.name=" + a.name + "-house3", `run.dir="out"`, "run.seed=3", "env.vault.houses=[3]"},
			a.sets...)
		want, err := config.With(base, sets)
		if err != nil {
			t.Fatal(err)
		}
		if d := config.Differences(want, got); len(d) > 0 {
			t.Errorf("%s: %v", a.name, d)
		}
	}
}

// A key of --set that only some arms use is kept for those.
func TestKeysThatOnlySomeArmsUse(t *testing.T) {
	t.Chdir(t.TempDir())
	f := func(sets, arms, own []string, note, fault string) {
		t.Helper()
		cmd := compareCmd{common: common{Profile: config.Demo, Set: sets}, Arms: arms, Arm: own, Jobs: 1}
		_, settings, notes, err := cmd.check()
		if fault == "" && err != nil || fault != "" && (err == nil || !strings.Contains(err.Error(), fault)) {
			t.Errorf("%v %v: %v, want %q", sets, own, err, fault)
		}
		if all := strings.Join(notes, "; "); fault == "" && (note == "") != (all == "") || !strings.Contains(all, note) {
			t.Errorf("%v %v: notes %q, want %q", sets, own, all, note)
		}
		if err == nil && note == "" && settings[len(settings)-1].Memory.K == 0 {
			t.Error("memory.k was lost")
		}
	}
	both := []string{"grpo", "empo2"}
	f([]string{"memory.k=7"}, both, nil, "arm grpo: memory.k has no effect: algorithm.name", "")
	f([]string{"memory.k=7"}, []string{"empo2"}, nil, "", "")
	f([]string{"memory.k=7"}, []string{"grpo"}, nil, "", "--set memory.k=7: memory.k: has no effect")
	f([]string{"algorithm.name=grpo"}, both, nil, "", "")
	f(nil, nil, []string{"a=algorithm.name=grpo,memory.k=7"}, "arm a: memory.k has no effect", "")
	f(nil, nil, []string{"a=memory.kk=3"}, "", `--arm a: memory.kk=3: unknown key`)
	f(nil, nil, []string{"a=memory.k=0"}, "", `--arm a: memory.k=0: memory.k: 0 is out of range`)
	f(nil, nil, []string{"a=memory.k"}, "", `--arm a: memory.k: not of the form key=value`)
	f(nil, nil, []string{"a=run.seed=2"}, "", "compare sets run.seed itself\n  hint: leave it out; use --seeds")
	f(nil, nil, []string{"a=", "A"}, "", "--arms has A twice")
	f(nil, nil, []string{"a/b=memory.k=7"}, "", "hint: NAME=KEY=VALUE")
}
