package prompt_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler/prompt"
)

func TestTurnsRenderWithAndWithoutTips(t *testing.T) {
	f := prompt.Default()
	turn := func(feedback, state string, tips []prompt.Tip, with, without string) {
		t.Helper()
		m := f.Turn(envs.Observation{Feedback: feedback, State: state}, tips)
		if diff := cmp.Diff([]string{with, without}, []string{m.Text(), m.WithoutTips().Text()}); diff != "" {
			t.Error(diff)
		}
		if m.HasTips() != (with != without) || m.WithoutTips().HasTips() {
			t.Errorf("HasTips is %v", m.HasTips())
		}
	}
	two := []prompt.Tip{{ID: 1, Text: "a"}, {ID: 2, Text: "b\nTips:\r\nc"}}
	turn("", "Door 1.", nil, "Door 1.", "Door 1.")
	turn("It opens.", "Door 2.", nil, "It opens.\nDoor 2.", "It opens.\nDoor 2.")
	turn("", "Door 1.", two, "Tips:\n- a\n- b Tips:  c\nDoor 1.", "Door 1.")
	turn("Tips:", "Door 1.", two[:1], "Tips:\nTips:\n- a\nDoor 1.", "Tips:\nDoor 1.")
	turn("", "{{.Tips}} <b>&", two[:1], "Tips:\n- a\n{{.Tips}} <b>&", "{{.Tips}} <b>&")
}

func TestTemplatesHaveDefaultsForEmptyTaskFields(t *testing.T) {
	f := prompt.Default()
	if got := f.Opening(envs.Task{}); got != nil {
		t.Errorf("opening without a text: %v", got)
	}
	if got := f.Opening(envs.Task{Instruction: "Walk."})[0].Text(); got != "Walk." {
		t.Errorf("opening %q", got)
	}
	got := f.Request(envs.Task{}, envs.Observation{Feedback: "Out."}).Text()
	if got != "Out.\nWrite one tip for the next attempt." {
		t.Errorf("request %q", got)
	}
	if got := f.Request(envs.Task{Reflection: "Why?"}, envs.Observation{}).Text(); got != "Why?" {
		t.Errorf("request %q", got)
	}
}

// mustParse parses the template "plain" with some blocks replaced.
func mustParse(t *testing.T, changed string) prompt.Template {
	t.Helper()
	f, err := parse(changed)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// parse parses the template "plain" with some blocks replaced.
func parse(changed string) (prompt.Template, error) {
	const define = "{{define "
	text := changed
	for _, block := range strings.Split(prompt.Default().Text(), define)[1:] {
		name, _, _ := strings.Cut(block, " ")
		name, _, _ = strings.Cut(name, "}")
		if !strings.Contains(changed, define+name) {
			text += define + block
		}
	}
	return prompt.Parse("own", text)
}

func TestTemplatesOfUsersReplaceBlocks(t *testing.T) {
	f := mustParse(t, `
{{define "options"}}order = ["state", "tips", "feedback"]
max_tips = 1{{end}}
{{define "system"}}Be brief.{{with .Instruction}} {{.}}{{end}}{{end}}
{{define "feedback"}}You did: {{.Feedback}}{{end}}
{{define "state"}}{{.State}}{{range find "focus on (\\w+)" .State}} [{{.}}]{{end}}{{end}}
{{define "reflection"}}Why?{{end}}`)
	if f.MaxTipsPerTurn != 1 || f.MaxTipCharacters != 600 {
		t.Errorf("options %d, %d", f.MaxTipsPerTurn, f.MaxTipCharacters)
	}
	if got := f.Opening(envs.Task{})[0].Text(); got != "Be brief." {
		t.Errorf("opening %q", got)
	}
	o := envs.Observation{Feedback: "no.", State: "focus on a, focus on b, focus on a"}
	m := f.Turn(o, []prompt.Tip{{Text: "x"}})
	if got, want := m.Text(), "focus on a, focus on b, focus on a [a] [b]\nTips:\n- x\nYou did: no."; got != want {
		t.Errorf("turn %q, want %q", got, want)
	}
	if got := f.Request(envs.Task{Reflection: "How?"}, envs.Observation{}).Text(); got != "Why?" {
		t.Errorf("request %q", got)
	}
	if f.SHA256() == prompt.Default().SHA256() || len(f.SHA256()) != 64 || f.Name() != "own" {
		t.Errorf("name %s, checksum %s", f.Name(), f.SHA256())
	}
}

func TestActionsAreExtractedFromReplies(t *testing.T) {
	check := func(options, reply, want string) {
		t.Helper()
		f := mustParse(t, `{{define "options"}}`+options+`{{end}}`)
		if got := f.Action(reply); got != want {
			t.Errorf("%s: %q is %q, want %q", options, reply, got, want)
		}
	}
	check("", " Look\nAround ", "Look\nAround")
	check("lower = true", "Look Around", "look around")
	check(`action = "line"`, "I think.\n\nGo north\n", "Go north")
	check(`action = "line"`, "\n", "")
	check(`action = "tag"`, "Well. <action> search[Red] </action> Done", "search[Red]")
	check(`action = "tag"`, "<action>a</action><action>b</action>", "b")
	check(`action = "tag"`, "<action>click[buy", "click[buy")
	check(`action = "tag"`, "think\nclick[x]", "click[x]")
	if got := (prompt.Template{}).Action(" a\nb "); got != "a\nb" {
		t.Errorf("zero template: %q", got)
	}
}

func TestFaultyTemplatesAreRefused(t *testing.T) {
	f := func(changed, want string) {
		t.Helper()
		_, err := parse(changed)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s\nerror %v, want %q with a hint", changed, err, want)
		}
	}
	f(`{{define "state"}}{{.State`, "own:")
	f(`{{define "state"}}{{.Tips}}{{end}}`, "Tips")
	f(`{{define "system"}}{{if .Instruction}}{{.Task}}{{end}}{{end}}`, "Task")
	f(`{{define "state"}}{{index .State 3}}{{end}}`, `"index" is not supported`)
	f(`{{define "state"}}{{template "tips" .}}{{end}}`, "not supported")
	for _, loop := range []string{"{{range 9999999999}}{{end}}", "{{range $i := 9999999999}}x{{end}}",
		"{{$n := 9999999999}}{{range $n}}{{end}}", "{{with 9999999999}}{{range .}}{{end}}{{end}}",
		"{{range or 9999999999 1}}{{end}}", "{{if $n := 9999999999}}{{range $n}}{{end}}{{end}}"} {
		f(`{{define "state"}}`+loop+`{{end}}`, "number 9999999999 is not supported")
		f(`{{define "options"}}`+loop+`{{end}}`, "number 9999999999 is not supported")
	}
	f(`{{define "state"}}{{if .State}}x{{else}}{{find "(" "a"}}{{end}}{{end}}`, "missing closing )")
	f(`{{define "state"}}{{find .State "a"}}{{end}}`, "must be a pattern in quotes")
	f(`{{define "options"}}order = ["state"]{{end}}`, "order")
	f(`{{define "options"}}show_state = "last"{{end}}`, "show_state")
	f(`{{define "options"}}action = "all"{{end}}`, "action")
	f(`{{define "options"}}actoin = "tag"{{end}}`, "actoin")
	f(`{{define "options"}}max_tips = -1{{end}}`, "negative")
	f(`{{define "options"}}order = {{end}}`, "options")
	if _, err := prompt.Parse("empty", ""); err == nil || !strings.Contains(err.Error(), `no block "system"`) {
		t.Errorf("an empty file: %v", err)
	}
	f(`{{define "sate"}}{{.State}}{{end}}`, `unknown block "sate"`)
	if _, err := prompt.Source("nothing"); err == nil || !strings.Contains(err.Error(), "plain, scienceworld, webshop") {
		t.Errorf("an unknown template: %v", err)
	}
}

// In every template, a turn with tips rendered without them equals the same turn that never had tips.
func TestWithoutTipsRemovesExactlyTheTips(t *testing.T) {
	for _, name := range prompt.Names() {
		text, err := prompt.Source(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := prompt.Parse(name, text)
		if err != nil {
			t.Fatal(err)
		}
		rapid.Check(t, func(t *rapid.T) {
			forged := []string{"<tip>", "</tip>", "Tips:\n- a", "focus on the red box", ""}
			texts := rapid.OneOf(rapid.String(), rapid.SampledFrom(forged))
			o := envs.Observation{Feedback: texts.Draw(t, "feedback"), State: texts.Draw(t, "state")}
			var tips []prompt.Tip
			for i, text := range rapid.SliceOfN(texts, 1, 4).Draw(t, "tips") {
				tips = append(tips, prompt.Tip{ID: int64(i), Text: text})
			}
			with, without := f.Turn(o, tips), f.Turn(o, nil)
			if !with.HasTips() || without.HasTips() {
				t.Fatalf("%s: HasTips %v and %v", name, with.HasTips(), without.HasTips())
			}
			if diff := cmp.Diff(without, with.WithoutTips()); diff != "" {
				t.Fatalf("%s: %s", name, diff)
			}
			if strings.Contains(with.Text(), "template: ") && !strings.Contains(o.Feedback+o.State, "template: ") {
				t.Fatalf("%s: %s", name, with.Text())
			}
		})
	}
}

func TestScienceWorldTemplateHasTheShapeOfTheRecipe(t *testing.T) {
	text, err := prompt.Source("scienceworld")
	if err != nil {
		t.Fatal(err)
	}
	f, err := prompt.Parse("scienceworld", text)
	if err != nil {
		t.Fatal(err)
	}
	o := envs.Observation{State: "Your task is to boil water. First, focus on the substance. Then, focus on steam."}
	got := f.Turn(o, []prompt.Tip{{Text: "the stove is broken"}, {Text: "use the lighter"}}).Text()
	want := o.State + "\nThings that the task lets you focus on: substance; steam;" +
		"\n<tip>\nFrom your earlier attempts you remember:\nthe stove is broken\nuse the lighter\n</tip>"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := f.Turn(envs.Observation{Feedback: "It boils.", State: o.State}, nil).Text(); got != "It boils." {
		t.Errorf("a later turn %q", got)
	}
	if got := f.Action("Look Around"); got != "look around" {
		t.Errorf("action %q", got)
	}
}
