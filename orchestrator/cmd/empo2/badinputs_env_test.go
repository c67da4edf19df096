package main

import (
	"fmt"
	"net/http"
	"strings"
)

// answers is a server with one answer for each path.
func answers(paths map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text, ok := paths[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(text))
	}
}

// with returns a copy of paths with another answer for one of them.
func with(paths map[string]string, path, text string) map[string]string {
	out := map[string]string{path: text}
	for p, t := range paths {
		if p != path {
			out[p] = t
		}
	}
	return out
}

// badDescriptions has environments that answer, but whose descriptions of themselves are
// wrong: the document of your own environment, schemas, tools, splits and numbers of tasks.
func badDescriptions() (all []badInput) {
	add := func(env, path, text string, paths map[string]string, sets ...string) {
		args := []string{"prompt", "--profile", "demo", "--set", "env.name=" + env, "--set", "env." + env + ".url=URL"}
		for _, set := range sets {
			args = append(args, "--set", "env."+env+"."+set)
		}
		all = append(all, badInput{name: fmt.Sprintf("%s %s %.40q %v", env, path, text, sets), args: args,
			serve: answers(with(paths, path, text))})
	}
	house := map[string]string{"/list_environments": `["house"]`,
		"/house/tools":  `{"tools": [{"name": "act", "input_schema": {"properties": {"text": {"type": "string"}}}}]}`,
		"/house/splits": `[{"name": "train", "type": "train"}]`, "/house/num_tasks": `{"num_tasks": 3}`}
	for _, text := range []string{"", "{}", "3", `"house"`, "[3]", `[""]`, `["a", "b"]`, `[{"name": "house"}]`, "null"} {
		add("ors", "/list_environments", text, house)
	}
	for _, text := range []string{"", "[]", "{}", "null", `{"tools": 3}`, `{"tools": []}`, `{"tools": [3]}`,
		`{"tools": [{"name": 3}]}`, `{"tools": [{}]}`} {
		add("ors", "/house/tools", text, house)
	}
	for _, text := range []string{"{}", `{"tools": [{"name": "act"}]}`,
		`{"tools": [{"name": "act", "input_schema": 3}]}`,
		`{"tools": [{"name": "act", "input_schema": {"properties": []}}]}`,
		`{"tools": [{"name": "act", "input_schema": {"properties": {}}}]}`,
		`{"tools": [{"name": "act", "input_schema": {"required": "x"}}]}`} {
		add("ors", "/house/tools", text, house, "tool=act")
	}
	for _, text := range []string{"", "{}", "null", "3", "[]", "[3]", `[{"name": 3}]`, `[{}]`, `["train"]`,
		`[{"name": "dev"}]`} {
		add("ors", "/house/splits", text, house)
	}
	for _, text := range []string{"", "{}", "null", "3", "[]", `{"num_tasks": "3"}`, `{"num_tasks": -1}`,
		`{"num_tasks": 0}`, `{"num_tasks": 1.5}`, `{"num_tasks": 1e300}`, `{"num_tasks": 99999999999999999999}`,
		`{"num_tasks": 9223372036854775807}`} {
		add("ors", "/house/num_tasks", text, house)
	}
	for _, set := range []string{"train=5-9", "train=hard:0", "tool=none", "input={\"x\": \"{action}\"}"} {
		add("ors", "/none", "", house, set)
	}
	healthy := map[string]string{"/health": `{"status": "healthy"}`,
		"/schema": `{"action": {"properties": {"message": {"type": "string"}}, "required": ["message"]}}`}
	for _, text := range []string{"", "[]", "{}", "null", "3", `{"action": 3}`, `{"action": []}`, `{"action": null}`,
		`{"action": {}}`, `{"action": {"properties": 3}}`, `{"action": {"properties": {"a": 3}}}`,
		`{"action": {"properties": {"a": {"type": 3}}}}`, `{"action": {"required": 3}}`, `{"action": {"required": [3]}}`,
		`{"action": {"properties": {"a": {}, "b": {}}, "required": ["a", "b"]}}`,
		`{"action": {"properties": {"a": {"type": "object"}}}}`, `{"action": {"additionalProperties": 3}}`} {
		add("openenv", "/schema", text, healthy)
	}
	for _, set := range []string{`action={"message": "x"}`, `action={"other": "{action}"}`} {
		closed := `{"action": {"properties": {"message": {}}, "additionalProperties": false}}`
		add("openenv", "/schema", closed, healthy, set)
	}
	return append(all, badDocuments()...)
}

// badDocuments has descriptions of environments of your own, and their first observations.
func badDocuments() (all []badInput) {
	args := []string{"prompt", "--profile", "demo", "--set", "env.name=remote", "--set", "env.remote.url=URL"}
	good := map[string]string{"/reset": `{"id": "a", "observation": "You see a door."}`}
	for _, text := range []string{`{"protocol": "other"}`, `{"protocol": "empo2-env", "version": 2}`,
		`{"protocol": "empo2-env", "version": "x"}`, `{"protocol": "empo2-env", "version": {}}`,
		`{"protocol": "empo2-env", "instruction": 3}`, `{"protocol": "empo2-env", "instruction": ["a"]}`,
		`{"protocol": "empo2-env", "reflection": {}}`, `{"protocol": "empo2-env", "version": 1.5}`} {
		all = append(all, badInput{name: fmt.Sprintf("remote / %.60q", text), args: args,
			serve: answers(with(good, "/", text))})
	}
	for _, text := range []string{"", "[]", "null", "{}", `{"id": "a"}`, `{"observation": "x"}`,
		`{"id": "a", "observation": null}`, `{"id": "a", "observation": []}`,
		`{"id": "a", "observation": {"state": 3}}`, `{"id": "a", "observation": {"feedback": []}}`,
		`{"id": "a", "observation": "` + strings.Repeat("x", 5<<20) + `"}`} {
		all = append(all, badInput{name: fmt.Sprintf("remote /reset %.60q", text), args: args,
			serve: answers(with(good, "/reset", text))})
	}
	return all
}

// badCatalogues has data of webshop that is no catalogue.
func badCatalogues() (all []badInput) {
	const item = `[{"asin": "LAMP000001", "name": "Lamp", "pricing": "$2.50", "query": "lamps", ` +
		`"product_category": "a", "category": "garden", "full_description": "A lamp.", "small_description": ["x"], ` +
		`"customization_options": {}}]`
	const note = `{"LAMP000001": {"attributes": ["red"], "instruction": "a red lamp", "instruction_attributes": ["red"]}}`
	add := func(place string, files map[string]string, sets ...string) {
		args := []string{"prompt", "--profile", "demo", "--set", "env.name=webshop", "--set", "env.webshop.data=data",
			"--set", "env.webshop.own_data=true"}
		for _, set := range sets {
			args = append(args, "--set", "env.webshop."+set)
		}
		in := map[string]string{}
		for name, text := range files {
			in["data/"+name] = text
		}
		all = append(all, badInput{name: fmt.Sprintf("%s %.40q %v", place, files[place], sets), files: in, args: args,
			place: place})
	}
	const items, attributes = "items_shuffle_1000.json", "items_ins_v2_1000.json"
	for _, text := range []string{"", "{", "{}", "3", "null", "[", "[]", "[3]", `[{"asin": 3}]`, item[:len(item)-1],
		item + "x", strings.Replace(item, `"lamps"`, "3", 1), strings.Replace(item, `"$2.50"`, "2.5", 1),
		strings.Replace(item, `"Lamp"`, "null, 3", 1), "<html>", "\xff\xfe", "version https://git-lfs.github.com/spec/v1\n",
		"\x1f\x8b", "\x1f\x8bxxxxxxxxxxxxxxxxxxxx", "PK\x03\x04", strings.Repeat("[", 1<<14)} {
		add(items, map[string]string{items: text, attributes: note})
	}
	for _, text := range []string{"", "{", "[]", "3", "null", "{}", `{"a": 3}`, `{"LAMP000001": []}`,
		`{"LAMP000001": {"attributes": 3}}`, `{"LAMP000001": {"instruction": []}}`,
		`{"LAMP000001": {"instruction_attributes": "x"}}`, note + "x", "<html>", "\x1f\x8b"} {
		add(attributes, map[string]string{items: item, attributes: text})
	}
	for _, text := range []string{"", "{", "[]", "3", "null", `{"a": 3}`, `{"a": [3]}`, "<html>"} {
		add("nouns.json", map[string]string{items: item, attributes: note, "nouns.json": text}, "nouns=nouns.json")
		add("items_human_ins.json", map[string]string{items: item, attributes: note, "items_human_ins.json": text},
			"goals=human")
	}
	add("webshop", nil)
	add(attributes, map[string]string{items: item})
	add("none.json", map[string]string{items: item, attributes: note}, "nouns=none.json")
	add("none.json", map[string]string{items: item, attributes: note}, "items=none.json")
	for _, set := range []string{"seed_mode=x", "mode=html", "goals=none", "reward=2", "products=-1", "max_turns=-1"} {
		add("env.webshop."+set[:strings.Index(set, "=")], map[string]string{items: item, attributes: note}, set)
	}
	return all
}

// badRanges has tasks of environments that are no ranges, and templates of actions that
// are no JSON.
func badRanges() (all []badInput) {
	add := func(env, key, value string) {
		args := []string{"prompt", "--profile", "demo", "--set", "env.name=" + env, "--set", "env." + env + ".url=URL",
			"--set", "env." + env + "." + key + "=" + value}
		if env == "agentgym" {
			args = append(args, "--set", "env.agentgym.dialect=maze")
		}
		all = append(all, badInput{name: env + " " + key + " " + value, args: args, place: "env." + env + "." + key,
			serve: http.NotFound})
	}
	for _, env := range []string{"agentgym", "openenv", "ors"} {
		for _, value := range []string{"x", "9-0", "-1", "1-", "1,,2", "0-99999999999999999999", "1.5", "0x10", "1-2-3",
			"0-9,5"} {
			add(env, "train", value)
		}
	}
	for _, value := range []string{"{", "[]", "3", "x", "null", `{"a": "{action}"} x`} {
		add("openenv", "action", value)
		add("openenv", "options", value)
	}
	return all
}
