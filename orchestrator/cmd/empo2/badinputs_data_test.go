package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// badTemplates has prompt templates with mistakes.
func badTemplates() (all []badInput) {
	const good = `{{define "options"}}{{end}}{{define "system"}}{{.Instruction}}{{end}}{{define "feedback"}}{{end}}` +
		`{{define "tips"}}{{end}}{{define "state"}}{{.State}}{{end}}{{define "reflection"}}{{end}}`
	for _, change := range [][2]string{
		{good, ""}, {good, "x"}, {`{{.State}}`, `{{.Tips}}`}, {`{{.State}}`, `{{`}, {`{{.State}}`, `{{.State`},
		{`{{.State}}`, `{{if .State}}`}, {`{{.State}}`, `{{end}}`}, {`{{.State}}`, `{{printf "%d" .State}}`},
		{`{{.State}}`, `{{index .State 9}}`}, {`{{.State}}`, `{{template "tips"}}`}, {`{{.State}}`,
			`{{find .State .State}}`},
		{`{{.State}}`, `{{find "(" .State}}`}, {`{{.State}}`, `{{find}}`}, {`{{.State}}`, `{{nothing .State}}`},
		{`{{.State}}`, `{{.State.Length}}`}, {`{{.State}}`, `{{$x}}`}, {`{{.State}}`, `{{html .State}}`},
		{`{{.State}}`, `{{call .State}}`}, {`{{.Instruction}}`, `{{.State}}`}, {`"state"`, `"stat"`}, {`"system"`,
			`"sys"`},
		{`"options"}}`, `"options"}}order = ["state"]`}, {`"options"}}`, `"options"}}action = "none"`},
		{`"options"}}`, `"options"}}show_state = "never"`}, {`"options"}}`, `"options"}}max_tips = -1`},
		{`"options"}}`, `"options"}}max_tips = "x"`}, {`"options"}}`, `"options"}}unknown = 1`},
		{`"options"}}`, `"options"}}[`}, {`"options"}}`, `"options"}}max_tip_characters = -1`},
		{`"options"}}`, `"options"}}lower = 1`}, {`"options"}}`, `"options"}}{{range 9999999999}}{{end}}`},
		{`{{.State}}`, `{{range $i := 9999999999}}x{{end}}`}, {`{{.State}}`, `{{with 9999999999}}{{range .}}{{end}}{{end}}`},
	} {
		all = append(all, badInput{name: fmt.Sprintf("%.60q", change[1]),
			files: map[string]string{"bad.tmpl": strings.Replace(good, change[0], change[1], 1)},
			args:  []string{"prompt", "--profile", "demo", "--set", "prompt.template=bad.tmpl"}, place: "bad.tmpl"})
	}
	return all
}

const goodDemonstration = `{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}`

// badDemonstrations has files of demonstrations with a fault in line 2.
func badDemonstrations() (all []badInput) {
	message := func(role, content string) string {
		text, _ := json.Marshal(map[string]string{"role": role, "content": content}) // texts can be encoded
		return string(text)
	}
	user, assistant := message("user", "a"), message("assistant", "b")
	const good = goodDemonstration
	for _, line := range []string{"x", "{", "[]", "3", "null", "{}", `{"messages": null}`, `{"messages": []}`,
		`{"messages": 3}`,
		`{"messages": [3]}`, `{"messages": [` + user + `]}`, `{"messages": [` + assistant + `]}`,
		`{"messages": [` + user + `, ` + user + `]}`,
		`{"messages": [` + user + `, ` + assistant + `, ` + assistant + `]}`,
		`{"messages": [` + message("tool", "a") + `]}`, `{"messages": [` + message("", "a") + `]}`,
		`{"messages": [` + user + `, ` + message("system", "a") + `, ` + assistant + `]}`,
		`{"messages": [` + user + `, ` + message("assistant", " ") + `]}`,
		`{"messages": [{"role": "user"}, ` + assistant + `]}`, `{"messages": [{"role": 1, "content": "a"}]}`,
		`{"messages": [{"role": "user", "content": null}, ` + assistant + `]}`,
		`{"messages": [{"role": "user", "content": [{"type": "image"}]}, ` + assistant + `]}`,
		`{"messages": [` + user + `, {"role": "assistant", "content": "b", "weight": 2}]}`,
		`{"messages": [` + user + `, {"role": "assistant", "content": "b", "weight": "1"}]}`,
		`{"messages": [` + user + `, {"role": "assistant", "content": "b", "weight": 0}]}`,
		`{"messages": [` + user + `, {"role": "assistant", "content": "b", "tool_calls": [1]}]}`,
		good + good, `{"prompt": [` + user + `]}`, `{"completion": [` + assistant + `]}`,
		`{"prompt": "a", "completion": "b"}`, `{"messages": [` + user + `, ` + assistant + `], "tools": [1]}`,
		`{"messages": [` + user + `, ` + assistant + `], "prompt": []}`, "\xff\xfe", `{"text": "a"}`} {
		all = append(all, badInput{name: fmt.Sprintf("%.60q", line),
			files: map[string]string{"bad.jsonl": good + "\n" + line},
			args:  []string{"warmstart", "--profile", "demo", "--data", "bad.jsonl"}, place: "line 2"})
	}
	all = append(all,
		badInput{name: "without a line", files: map[string]string{"bad.jsonl": "\n\n"},
			args: []string{"warmstart", "--profile", "demo", "--data", "bad.jsonl"}, place: "bad.jsonl"},
		badInput{name: "a long line", files: map[string]string{"bad.jsonl": good + "\n" + strings.Repeat("x",
			17<<20)},
			args: []string{"warmstart", "--profile", "demo", "--data", "bad.jsonl"}, place: "line 2"},
		badInput{name: "a folder", args: []string{"warmstart", "--profile", "demo", "--data", "."},
			place: ". is not a file"},
		badInput{name: "a device", args: []string{"warmstart", "--profile", "demo", "--data", "/dev/zero"},
			place: "/dev/zero"},
		badInput{name: "no file", args: []string{"warmstart", "--profile", "demo", "--data", "none.jsonl"},
			place: "none.jsonl"})
	return all
}

// badTips has files of tips with a fault in record 2.
func badTips() (all []badInput) {
	const bank, tip = `{"kind":"bank","format":1}`,
		`{"kind":"tip","tip":{"id":1,"scope":"s","text":"a"},"states":["b"]}`
	for _, text := range []string{"x", "{", "[]", "3", "null", "{}", bank, `{"kind":"tip"}`, `{"kind":"tip","tip":3}`,
		`{"kind":"tip","tip":{"text":3},"states":["b"]}`, `{"kind":"state"}`, `{"kind":"state","visits":0}`,
		`{"kind":"state","scope":"s","state":"b","visits":-1}`,
		`{"kind":"state","scope":"s","state":"b","visits":1e300}`,
		`{"kind":"state","scope":"s","state":"b","visits":1.5}`, `{"kind":"x"}`, `{"kind":3}`,
		`{"kind":"tip","states":3}`,
		`{"kind":"tip","tip":{"scope":"s","text":"a","score":"x"},"states":["b"]}`,
		`{"kind":"tip","tip":{"step":1e99}}`,
		`{"kind":"tip","tip":{"scope":"s","text":"a","score":1e999},"states":["b"]}`, "\xff\xfe", "\x00"} {
		all = append(all, badInput{name: fmt.Sprintf("%.60q", text), stdin: bank + "\n" + text, place: "record 2",
			args: []string{"memory", "import", "--profile", "demo"}})
	}
	for _, text := range []string{"x", "[]", "3", tip, `{"kind":"bank","format":2}`, `{"kind":"bank","format":"1"}`,
		`{"kind":"bank"}`, "<html>", "\ufeff" + bank + "x"} {
		all = append(all, badInput{name: fmt.Sprintf("%.60q", text), stdin: text, place: "record 1",
			args: []string{"memory", "import", "--profile", "demo"}})
	}
	return append(all, badInput{name: "nothing", args: []string{"memory", "import", "--profile", "demo"},
		place: "standard input"})
}

// badEnvironments has environments whose servers do not answer as their protocols ask for.
func badEnvironments() (all []badInput) {
	answer := func(kind, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write([]byte(text))
		}
	}
	for _, env := range [][]string{
		{"remote", "env.remote.url=URL"}, {"openenv", "env.openenv.url=URL"}, {"ors", "env.ors.url=URL"},
		{"agentgym", "env.agentgym.url=URL", "env.agentgym.dialect=webshop", "env.agentgym.train=0-1"},
	} {
		args := []string{"prompt", "--profile", "demo", "--set", "env.name=" + env[0]}
		for _, set := range env[1:] {
			args = append(args, "--set", set)
		}
		for _, text := range []string{"null", "3", "[]", `"x"`, `{"error": "no"}`, `{"error": {"message": 3}}`,
			`{"id": 3}`,
			`{"id": "a", "observation": 3}`, `{"protocol": "x"}`, `{"protocol": 3}`, "hello", "\xff\xfe", "{}x",
			`{"a": 1e999}`} {
			all = append(all, badInput{name: fmt.Sprintf("%s answers %.60q", env[0], text), args: args,
				serve: answer("application/json", text)})
		}
		all = append(all, badInput{name: env[0] + " is a page", args: args, serve: answer("text/html",
			"<html><title>Welcome")})
		for _, status := range []int{400, 401, 403, 404, 405, 418, 422, 500, 501} {
			all = append(all, badInput{name: fmt.Sprintf("%s answers %d", env[0], status), args: args,
				serve: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", status) }})
		}
	}
	return all
}
