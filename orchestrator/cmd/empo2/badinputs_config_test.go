package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/empo2/empo2/orchestrator/config"
)

// badConfig is a bad configuration file.
func badConfig(name, text, place string) badInput {
	return badInput{name: name, files: map[string]string{"bad.toml": text},
		args: []string{"run", "--profile", "demo", "-c", "bad.toml"}, place: place}
}

// wrongValues are values of a wrong type, and numbers without meaning or too large.
func wrongValues(key string, good any) []string {
	switch good.(type) {
	case string:
		return []string{"[[1]]"}
	case int64:
		if key == "run.seed" {
			return []string{`"x"`}
		}
		return []string{`"x"`, "-9223372036854775808"}
	case float64:
		return []string{`"x"`, "nan", "-inf", "-1e300"}
	}
	return []string{`"x"`}
}

// badKeys has every key of the configuration with wrong values.
func badKeys(t *testing.T) (all []badInput) {
	var text strings.Builder
	var keys map[string]any
	if err := config.Write(&text, config.Default()); err != nil {
		t.Fatal(err)
	}
	if _, err := toml.Decode(text.String(), &keys); err != nil {
		t.Fatal(err)
	}
	var walk func(table string, values map[string]any)
	walk = func(table string, values map[string]any) {
		for _, key := range slices.Sorted(maps.Keys(values)) {
			if below, ok := values[key].(map[string]any); ok {
				walk(strings.TrimPrefix(table+"."+key, "."), below)
				continue
			}
			if table == "" {
				continue
			}
			for _, wrong := range wrongValues(table+"."+key, values[key]) {
				all = append(all, badConfig(fmt.Sprintf("%s.%s = %.20s", table, key, wrong),
					fmt.Sprintf("[%s]\n%s = %s\n", table, key, wrong), key))
			}
		}
	}
	walk("", keys)
	return all
}

// badFiles has files that are no configuration.
func badFiles() []badInput {
	return []badInput{
		badConfig("open table", "[run\n", "bad.toml:2"),
		badConfig("no value", "[run]\nsteps =\n", "bad.toml:2"),
		badConfig("twice", "[run]\nsteps = 1\nsteps = 2\n", "bad.toml:3"),
		badConfig("table twice", "[run]\n[run]\n", "bad.toml:2"),
		badConfig("open string", "[run]\nname = \"a\n", "bad.toml:2"),
		badConfig("no quotes", "[run]\nname = a b\n", "bad.toml:2"),
		badConfig("JSON", "{\"run\": {\"steps\": 1}}\n", "bad.toml:1"),
		badConfig("YAML", "run:\n  steps: 1\n", "bad.toml:1"),
		badConfig("not UTF-8", "[run]\nname = \"\xff\"\n", "bad.toml"),
		badConfig("a zero byte", "[run]\nname = \"a\x00\"\n", "bad.toml"),
		badConfig("list of tables", "[[run]]\nsteps = 1\n", "bad.toml"),
		badConfig("value for a table", "run = 3\n", "bad.toml"),
		badConfig("list for the profile", "profile = [\"demo\"]\n", "bad.toml"),
		badConfig("large", strings.Repeat("#", 1<<20+1), "bad.toml"),
		badConfig("binary", "\x7fELF\x02\x01\x01\x00", "bad.toml"),
		badConfig("UTF-16", "\xff\xfe[\x00r\x00", "bad.toml"),
		badConfig("UTF-8 cut off", "[run]\nname = \"\xe2\x82\"\n", "bad.toml"),
		badConfig("a carriage return alone", "[run]\rsteps = 1\r", "bad.toml"),
		badConfig("an escape of a terminal", "[run]\nname = \"\\u001b[31m\"\n", "run.name"),
		badConfig("a deep list", "[run]\nname = "+strings.Repeat("[", 1<<15)+strings.Repeat("]", 1<<15)+"\n",
			"bad.toml"),
		badConfig("a deep key", strings.Repeat("a.", 1<<12)+"a = 1\n", "bad.toml"),
		badConfig("a long key", strings.Repeat("a", 1<<16)+" = 1\n", "bad.toml"),
		badConfig("a long value", "[run]\nname = \""+strings.Repeat("a", 1<<18)+"\"\n", "run.name"),
		badConfig("a date", "[run]\nsteps = 2026-01-01\n", "bad.toml:2"),
		badConfig("a table for a number", "[run.steps]\nx = 1\n", "bad.toml"),
		badConfig("a dotted key of a value", "[run]\nsteps = 1\nsteps.x = 2\n", "bad.toml"),
		badConfig("hexadecimal with a sign", "[run]\nsteps = +0x10\n", "bad.toml:2"),
		badConfig("a number with a unit", "[run]\nmax_seconds = 10s\n", "bad.toml:2"),
		badConfig("True of Python", "[run]\nrepeatable = True\n", "bad.toml:2"),
		badConfig("None of Python", "[run]\nsteps = None\n", "bad.toml:2"),
		badConfig("a comma at the end", "[run]\nsteps = 1,\n", "bad.toml:2"),
		badConfig("two keys in a line", "[run]\nsteps = 1 seed = 2\n", "bad.toml:2"),
		badConfig("a string over two lines", "[run]\nname = \"a\nb\"\n", "bad.toml:2"),
		badConfig("a list of mixed types", "[env.vault]\nhouses = [1, \"a\"]\n", "bad.toml:2"),
		badConfig("template arguments", "[sampler]\ntemplate_args = 3\n", "template_args"),
		badConfig("template arguments in a list", "[sampler]\ntemplate_args = \"[1]\"\n", "template_args"),
		badConfig("two byte-order marks", "\ufeff\ufeff[run]\nsteps = 1\n", "bad.toml"),
		badConfig("a number too large", "[run]\nsteps = 99999999999999999999\n", "bad.toml:2"),
		{name: "no file", args: []string{"run", "-c", "none.toml"}, place: "none.toml"},
		{name: "a folder", args: []string{"run", "-c", "."}, place: ".: is a folder"},
		{name: "an empty name", args: []string{"run", "-c", ""}, place: "no such file"},
	}
}

// badCombinations has names of keys that are wrong, and keys without effect.
func badCombinations() (all []badInput) {
	for _, name := range []string{"run.stepz", "run.Steps", "steps", "model.name", "rollout.max_steps", "memory.size",
		"a.b.c",
		"sampler.canary", "sampler.vllm.url", "env.vault", "run", "run.steps.x", "optimizer.lr", "trainer.lora_rank",
		"env.doom.level", "algorithm", "loss.beta", "\u00e9", "learning_rate", "num_generations"} {
		all = append(all, badInput{name: "set " + name, place: name,
			args: []string{"config", "--profile", "demo", "--set", name + "=1"}})
	}
	for _, sets := range [][]string{
		{"algorithm.name=grpo", "memory.k=7"}, {"algorithm.name=grpo", "novelty.weight=0.5"},
		{"algorithm.name=grpo", "reflection.max_tokens=9"}, {"algorithm.name=adapt", "optimizer.learning_rate=0.1"},
		{"algorithm.name=adapt", "loss.kl=0.1"}, {"algorithm.name=adapt", "trainer.rank=4"}, {"env.webshop.data=x"},
		{"env.scienceworld.jar=x"}, {"env.ors.url=http://h"}, {"env.remote.url=http://h"},
		{"env.openenv.url=http://h"},
		{"env.agentgym.url=http://h"}, {"sampler.vllm.urls=[\"http://h\"]"}, {"sampler.ollama.url=http://h"},
		{"sampler.openai.url=http://h"}, {"sampler.sglang.urls=[\"http://h\"]"}, {"memory.url=http://h"},
		{"sampler.backend=vllm", "sampler.llamacpp.gguf=x.gguf"}, {"algorithm.baseline=group",
			"algorithm.mode_draw=none"},
		{"run.repeatable=true", "sampler.backend=vllm"}, {"env.name=remote"}, {"env.name=webshop"}, {"env.name=ors"},
		{"env.name=openenv"}, {"env.name=agentgym"}, {"env.name=remote", "env.remote.url=ftp://h"},
		{"env.name=remote", "env.remote.url=h:80"}, {"env.name=remote", "env.remote.url=http://"},
		{"sampler.backend=openai"}, {"sampler.backend=ollama"}, {"sampler.backend=vllm", "sampler.vllm.urls=[\"h\"]"},
		{"sampler.backend=vllm", "sampler.vllm.urls=[\"http://h\", \"http://h\"]"},
	} {
		args := []string{"run", "--profile", "demo"}
		for _, set := range sets {
			args = append(args, "--set", set)
		}
		key, _, _ := strings.Cut(sets[len(sets)-1], "=")
		if strings.HasPrefix(key, "env.name") || key == "sampler.backend" {
			key = ""
		}
		all = append(all, badInput{name: strings.Join(sets, " "), place: key, args: args})
	}
	return all
}

// badCommands are commands of the profile demo with bad flags, separated by semicolons.
const badCommands = `
eval --episodes 0 ; eval --episodes -1 ; eval --episodes x ; eval --episodes 99999999999999999999 ;
eval --temperature NaN ; eval --temperature -1 ; eval --temperature inf ; eval --temperature x ;
eval --split all ; compare --jobs 0 ; compare --jobs -1 ; compare --jobs x ; compare --houses '' ;
compare --houses a ; compare --houses 1,1 ; compare --houses -1 ; compare --arms '' ; compare --arms xyz ;
compare --arms grpo,grpo ; compare --arms grpo-time ; compare --seeds '' ; compare --seeds 1,1 ;
compare --seeds -1 ; compare --houses 1 --seeds 1 ; compare --arm a=run.stepz=1 ; compare --arm a=run.steps=x ;
compare --arm a=run.seed=1 ; compare --arm a/b=run.steps=1 ; compare --arm '' ; compare --arm a --arm a ;
compare --base a ; compare --base /=b ; plan --gpu-gb -1 ; plan --gpu-gb nan ; plan --gpu-gb x ;
plan --gpu-gb inf ; plan --seconds 0 ; plan --seconds -1 ; plan --seconds nan ; plan --seconds 1e300 ;
plan --check ; plan --check --no-calibrate ; run --from-step -1 ; run --from-step x ; run --from-step 1 ;
prompt --task -1 ; prompt --task x ; prompt --task 99999 ; prompt --split dev ; prompt --write /dev/null/x ;
demos --out o --count 0 ; demos --out o --count -1 ; demos --out o --env doom ; demos --out /dev/null/o ;
demos --out o --max-turns -2 ; demos --out o --run none ; demos --out o --min-return 1 ;
demos --out o --without-tips ; demos ; demos --out o --min-return nan --run none ; demos --out '' ;
demos --out . ; demos --out o --seed -1 ; run x ; run --json=x ; config x ; doctor x ;
try -k 0 ; try -k x ; try -k 99999 ; try --turns -1 ; try --temperature NaN ; try --task 99999 ; try --split dev ;
try --like 1/0/0 ; try --tips none --tips x ; try --tips auto ; try --prompt none.tmpl ; try --prompt . ;
try --watch ; try none ; try --seed -1 ; ab plain plain --tasks 0 ; ab plain plain -k -1 ;
ab plain plain --tasks 99999 ; ab plain plain --until never ; ab plain plain --measure fun ;
ab plain plain --range 0:1 ; ab plain plain --until decided --range 1:0 ; ab plain plain --until decided --range x ;
ab plain plain --temperature inf ; ab plain plain --limit -1 ; ab plain none.tmpl ; ab plain a=b ;
ab plain plain --run none`

// badWarmStarts are flags of empo2 warmstart.
const badWarmStarts = `
--batch 0 ; --batch -1 ; --batch x ; --steps 0 ; --steps -1 ; --epochs 0 ; --epochs nan ; --epochs inf ;
--epochs 1e300 ; --steps 1 --epochs 1 ; --learning-rate 0 ; --learning-rate nan ; --learning-rate inf ;
--learning-rate -1 ; --learning-rate 1000 ; --schedule step ; --warmup-steps -2 ; --rank 0 ; --rank -1 ;
--rank 99999 ; --holdout -0.1 ; --holdout 1 ; --holdout nan ; --save-seconds -1 ; --save-seconds nan ;
--save-seconds 1e300`

// badInits are flags of empo2 init.
const badInits = `
--model '' ; --model none ; --model model --env doom ; --model model --backend triton ;
--model model --algorithm ppo ; --model model --set x=1 ; --model model --set =1 ;
--model model --set x ; --model model -o none/c.toml ; --model model -o . ; --model model -o ''`

// commandLines splits a text into commands, and these into words.
func commandLines(text string) (all [][]string) {
	for line := range strings.SplitSeq(text, ";") {
		words := strings.Fields(line)
		for i := range words {
			words[i] = strings.Trim(words[i], "'")
		}
		all = append(all, words)
	}
	return all
}

// placeOf is the flag or the argument that the error about a command names.
func placeOf(args []string) string {
	place := args[len(args)-1]
	for _, word := range args[1:] {
		switch word {
		case "--check", "--env", "--run": // the error names a run or a value
			return ""
		}
		if strings.HasPrefix(word, "--") && word != "--out" {
			place, _, _ = strings.Cut(word, "=")
		}
	}
	return place
}

// badFlags has mistakes in commands and flags.
func badFlags() (all []badInput) {
	add := func(place string, args ...string) {
		all = append(all, badInput{name: strings.Join(args, " "), args: args, place: place})
	}
	for command := range strings.FieldsSeq("init plan run eval demos warmstart status compare doctor check backup " +
		"prompt config version") {
		add("--no-such-flag", command, "--no-such-flag")
	}
	for _, command := range []string{"plan", "run", "compare", "prompt", "config", "try"} {
		add("prompt.template: there is no file none.tmpl", command, "--profile", "demo", "--set",
			"prompt.template=none.tmpl")
		add("variables are not replaced", command, "--profile", "demo", "--set", "run.dir=$HOME/runs")
	}
	for _, command := range []string{"plan", "prompt", "config"} {
		add(`unknown task "bake"`, command, "--profile", "demo", "--set", "env.name=scienceworld", "--set",
			`env.scienceworld.tasks=["boil", "bake"]`)
	}
	for _, command := range []string{"plan", "run", "eval", "compare", "doctor", "prompt", "config"} {
		add("unknown profile", command, "--profile", "none")
		add("run.stepz", command, "--set", "run.stepz=1")
		add("key=value", command, "--set", "run.steps")
		add("none.toml", command, "-c", "none.toml")
	}
	add("rum", "rum")
	add("memory", "memory")
	add("serve", "env", "serve")
	add("--model", "init")
	for _, args := range commandLines(badCommands) {
		add(placeOf(args), append(args, "--profile", "demo")...)
	}
	for _, flags := range commandLines(badWarmStarts) {
		args := append([]string{"warmstart", "--profile", "demo", "--data", "good.jsonl"}, flags...)
		add(flags[0], args...)
		all[len(all)-1].files = map[string]string{"good.jsonl": goodDemonstration + "\n" + goodDemonstration}
	}
	for _, flags := range commandLines(badInits) {
		place, _, _ := strings.Cut(flags[len(flags)-1], "=-1")
		add(place, append([]string{"init"}, flags...)...)
	}
	for _, set := range []string{"run.steps=-1", "run.steps=x", "loss.kl=inf", "loss.clip_low=nan",
		"optimizer.learning_rate=-1", "optimizer.learning_rate=inf", "rollout.temperature=0.5",
		"rollout.concurrency=-1",
		"run.name=a/b", "run.name=..", "algorithm.name=ppo", "algorithm.groups=0", "algorithm.group_size=0",
		"trainer.rank=0", "trainer.rank=-1",
		"trainer.timeout_seconds=1e300", "trainer.timeout_seconds=-1", "env.name=doom", "env.vault.doors=0",
		"env.vault.houses=[]", "env.vault.houses=[1,1]", "env.vault.levers=99", "sampler.backend=triton",
		"memory.k=-1", "eval.temperature=nan", "run.steps=1\nrun.seed=2", "=1", "run=1"} {
		key, _, _ := strings.Cut(set, "=")
		add(key, "run", "--profile", "demo", "--set", set)
	}
	return all
}
