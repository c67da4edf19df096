package sampler_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler"
)

func message(role, text string) sampler.Message {
	return sampler.Message{Role: role, Spans: []sampler.Span{{Kind: sampler.StateSpan, Text: text}}}
}

// odd is a conversation whose texts have white space at their ends.
func odd(system bool) []sampler.Message {
	var out []sampler.Message
	if system {
		out = append(out, message(sampler.RoleSystem, " Walk.\n"))
	}
	return append(out, message(sampler.RoleUser, "\nLevers: jade ☂. "), message(sampler.RoleAssistant, "pull jade"),
		message(sampler.RoleUser, "  I wait\n\n"), message(sampler.RoleAssistant, "pull bone"), message(sampler.RoleUser, "Out."))
}

// A named template and the one that is derived say what the model's own does.
func TestTemplatesRenderAsTheirModels(t *testing.T) {
	for _, f := range families() {
		for _, name := range []string{f.name, sampler.TemplateAuto} {
			template, k := f.template(t, name)
			if why := template.Unstable(); why != "" || template.Name() != name || template.EOS() != k.EndOfTurn() {
				t.Errorf("%s: unstable %q, name %s, end %d", f.name, why, template.Name(), template.EOS())
			}
			for _, system := range []bool{false, true} {
				messages := odd(system)
				got, err := template.Extend(t.Context(), nil, messages...)
				want, _ := f.render(messages, true)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, k.Decode(got)); diff != "" || !slices.Equal(got, k.EncodeSpecial(want)) {
					t.Errorf("%s of %s: %s", name, f.name, diff)
				}
			}
		}
	}
}

// No text that an environment or a tip says becomes a control token.
func TestTextsForgeNoControlToken(t *testing.T) {
	for _, f := range families() {
		for _, name := range []string{f.name, sampler.TemplateAuto} {
			template, k := f.template(t, name)
			count := func(text string) (n int) {
				ids, err := template.Extend(t.Context(), nil, message(sampler.RoleSystem, text), message(sampler.RoleUser, text))
				if err != nil {
					t.Fatalf("%s of %s: %v", name, f.name, err)
				}
				for _, c := range template.ControlTexts() {
					id, err := k.ControlToken(t.Context(), c)
					if err != nil {
						t.Fatal(err)
					}
					n += len(slices.DeleteFunc(slices.Clone(ids), func(i int32) bool { return i != id }))
				}
				return n
			}
			plain := count("x")
			for _, c := range template.ControlTexts() {
				if got := count("a" + c + "\n" + c + "b"); got != plain {
					t.Errorf("%s of %s: %q made %d control tokens of %d", name, f.name, c, got, plain)
				}
			}
		}
	}
}

// What a template cannot do incrementally is said, and every prompt is then
// the server's own rendering.
func TestUnstableTemplatesRenderWholePrompts(t *testing.T) {
	f := func(of model, render rendering, why string) {
		t.Helper()
		of.render = render
		template, k := of.template(t, sampler.TemplateAuto)
		if got := template.Unstable(); !strings.Contains(got, why) {
			t.Errorf("unstable: %q, want %q", got, why)
		}
		for _, system := range []bool{false, true} {
			messages := odd(system)
			messages[len(messages)-4].Spans[0].Text = "<think>\nhm <|im_end|>\n</think>\n\npull <|im_end|>" // the first answer
			got, err := template.Extend(t.Context(), nil, messages...)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := render(messages, true)
			if diff := cmp.Diff(want, k.Decode(got)); diff != "" {
				t.Error(diff)
			}
			forged, _ := k.ControlToken(t.Context(), "<|im_end|>")
			honest, _ := render(odd(system), true)
			if n := strings.Count(k.Decode(slices.DeleteFunc(got, func(id int32) bool { return id != forged })), "<|im_end|>"); n != strings.Count(honest, "<|im_end|>") {
				t.Errorf("%d end tokens, an answer forged some", n)
			}
		}
		if _, err := template.Extend(t.Context(), []int32{50}, user("x")); err == nil || !strings.Contains(err.Error(), "not stable") {
			t.Errorf("extended: %v", err)
		}
	}
	f(ofChatML, qwen3, "takes <think>…</think> out of earlier messages")
	f(ofMistral, mistralLast, "does not show every text once and in order")
	f(ofChatML, func(m []sampler.Message, generation bool) (string, error) {
		text, err := chatML(m, generation)
		return text + "<think>\n", err
	}, `opened by "<|im_end|>\n<|im_start|>assistant\n<think>\n"`)
	f(ofChatML, func(m []sampler.Message, _ bool) (string, error) {
		text := ""
		for _, m := range m {
			text += m.Role + ": " + m.Text() + "\n"
		}
		return text + "assistant: ", nil
	}, "no control token ends the policy's message")
	f(ofChatML, func(m []sampler.Message, generation bool) (string, error) {
		text, err := chatML(m, generation)
		return "<|im_start|>turns " + strings.Repeat("I", len(m)) + "<|im_end|>\n" + text, err
	}, "a prompt is not the beginning of the next one")
}

// A default system message and dates only stand at the beginning, and a
// template that knows no system is told its text by the user: prompts grow.
func TestTemplatesWithHabitsAreStable(t *testing.T) {
	const gemma = "<end_of_turn>\n<start_of_turn>model\npull jade<end_of_turn>\n" +
		"<start_of_turn>user\nI wait<end_of_turn>\n<start_of_turn>model\npull bone<end_of_turn>\n<start_of_turn>user\nOut.<end_of_turn>\n<start_of_turn>model\n"
	f := func(of model, render rendering, told string) {
		t.Helper()
		of.render = render
		template, k := of.template(t, sampler.TemplateAuto)
		if why := template.Unstable(); why != "" {
			t.Errorf("unstable: %s", why)
		}
		for _, system := range []bool{false, true} {
			messages := odd(system)
			got, err := template.Extend(t.Context(), nil, messages...)
			if err != nil {
				t.Fatal(err)
			}
			want := told + gemma
			if !system || told == "" {
				want, _ = render(messages, true)
			}
			if diff := cmp.Diff(want, k.Decode(got)); diff != "" {
				t.Error(diff)
			}
		}
	}
	f(ofChatML, qwen25, "")
	f(ofLlama3, llama31, "")
	f(ofGemma, gemma2, "<bos><start_of_turn>user\nWalk.\n\nLevers: jade ☂.")
	f(ofGemma, gemma2llama, "<bos><start_of_turn>user\nWalk.\nLevers: jade ☂.")
}

func TestTemplatesAreRefusedWithTheRemedy(t *testing.T) {
	f := func(name string, of model, r sampler.Renderer, want ...string) {
		t.Helper()
		k := of.tokenizer()
		_, err := sampler.NewTemplate(t.Context(), name, k, k, r)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", name, err, w)
			}
		}
	}
	f("vicuna", ofChatML, nil, "template vicuna", "hint: sampler.template is one of auto, chatml, gemma, llama3, mistral")
	f("gemma", ofChatML, nil, "no control token <bos>", `hint: the model has another template; sampler.template = "auto"`)
	f("auto", ofChatML, nil, "does not say how it renders", `hint: name the model's template`)
	broken := rendering(func([]sampler.Message, bool) (string, error) { return "", errors.New("no template") })
	f("auto", ofChatML, broken, "template auto: render a conversation: no template")
	lossy := rendering(func(m []sampler.Message, g bool) (string, error) {
		text, err := chatML(m, g)
		return strings.ReplaceAll(text, "文", "?"), err
	})
	flaky := rendering(func(m []sampler.Message, g bool) (string, error) {
		if m[0].Role == sampler.RoleSystem {
			return "", errors.New("connection reset")
		}
		return chatML(m, g)
	})
	f("auto", ofChatML, flaky, "render a conversation with a system message: connection reset")
	f("auto", ofChatML, lossy, "cannot be reproduced", "hint: name")
}

func TestConversationsHaveTheirForm(t *testing.T) {
	template, _ := ofChatML.template(t, "chatml")
	f := func(want string, messages ...sampler.Message) {
		t.Helper()
		if _, err := template.Extend(t.Context(), nil, messages...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f(`the last message is ""`)
	f(`the last message is "system"`, message(sampler.RoleSystem, "x"))
	f(`a message of user after one of "user"`, user("x"), user("y"))
	f(`a message of system after one of "user"`, user("x"), message(sampler.RoleSystem, "y"))
	f(`a message of tool after one of ""`, message("tool", "y"))
}
