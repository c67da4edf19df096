package prompt

import (
	"strings"
	"testing"

	"github.com/empo2/empo2/envs"
)

// An accepted template renders every text without an error. A refused one gets an
// error with its name and a hint.
func FuzzParse(f *testing.F) {
	for _, name := range Names() {
		text, err := Source(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "a\nb")
	}
	f.Add(`{{define "system"}}{{find "(" .Instruction}}{{end}}`, "")
	f.Add(`{{define "state"}}{{range .State}}{{end}}{{template "state"}}{{end}}`, "x")
	f.Fuzz(func(t *testing.T, text, value string) {
		p, err := Parse("t.tmpl", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "prompt template t.tmpl: ") || !strings.Contains(err.Error(), "\n  hint: ") {
				t.Fatalf("%q lacks a place or a hint", err)
			}
			return
		}
		tips := []Tip{{Text: value}, {Text: value}}
		messages := append(p.Opening(envs.Task{Instruction: value}),
			p.Turn(envs.Observation{Feedback: value, State: value}, tips), p.Request(envs.Task{Reflection: value},
				envs.Observation{Feedback: value}))
		for _, m := range messages {
			if strings.Contains(m.Text(), "(template: ") && !strings.Contains(text+value, "(template: ") {
				t.Fatalf("%q", m.Text())
			}
		}
	})
}

// An action is part of the reply, in lower case or not, and has no surrounding white
// space. The shortest reply with an action has that action.
func FuzzAction(f *testing.F) {
	f.Add("<action>go</action>", 2)
	f.Add("a\n<action>x<action> y ", 2)
	f.Add(" a\nb \n", 1)
	f.Add("\u0130\xff", 0)
	f.Fuzz(func(t *testing.T, reply string, rule int) {
		p := Template{rule: actionRules[uint(rule)%uint(len(actionRules))]}
		action := p.Action(reply)
		if !strings.Contains(reply, action) || strings.TrimSpace(action) != action {
			t.Fatalf("%q of %q", action, reply)
		}
		if p.rule == insideTag && (strings.Contains(action, "<action>") || strings.Contains(action, "</action>")) {
			return // no action that a demonstration could have
		}
		if again := p.Action(p.Reply(action)); p.rule != lastLine && again != action {
			t.Fatalf("%q becomes %q", action, again)
		}
	})
}
