package chat_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/chat/chattest"
)

// odd is a conversation whose texts have white space at their ends.
func odd(system bool) []chat.Message {
	var out []chat.Message
	if system {
		out = append(out, chat.NewMessage(chat.RoleSystem, " Walk.\n"))
	}
	return append(out, chat.NewMessage(chat.RoleUser, "\nLevers: jade ☂. "), chat.NewMessage(chat.RoleAssistant, "pull jade"),
		chat.NewMessage(chat.RoleUser, "  I wait\n\n"), chat.NewMessage(chat.RoleAssistant, "pull bone"), chat.NewMessage(chat.RoleUser, "Out."))
}

// A named template and the one that is derived say what the model's own does.
func TestTemplatesRenderAsTheirModels(t *testing.T) {
	for _, f := range chattest.Models() {
		for _, name := range []string{f.Name, chat.TemplateAuto} {
			template, k := f.Template(t, name)
			if why := template.Unstable(); why != "" || template.Name() != name || template.EOS() != k.EndOfTurn() {
				t.Errorf("%s: unstable %q, name %s, end %d", f.Name, why, template.Name(), template.EOS())
			}
			for _, system := range []bool{false, true} {
				messages := odd(system)
				got, err := template.Extend(t.Context(), nil, messages...)
				want, _ := f.Render(messages, true)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, k.Decode(got)); diff != "" || !slices.Equal(got, k.EncodeSpecial(want)) {
					t.Errorf("%s of %s: %s", name, f.Name, diff)
				}
			}
		}
	}
}

// No text that an environment or a tip says becomes a control token.
func TestTextsForgeNoControlToken(t *testing.T) {
	for _, f := range chattest.Models() {
		for _, name := range []string{f.Name, chat.TemplateAuto} {
			template, k := f.Template(t, name)
			count := func(text string) (n int) {
				ids, err := template.Extend(t.Context(), nil, chat.NewMessage(chat.RoleSystem, text), chat.NewMessage(chat.RoleUser, text))
				if err != nil {
					t.Fatalf("%s of %s: %v", name, f.Name, err)
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
					t.Errorf("%s of %s: %q made %d control tokens of %d", name, f.Name, c, got, plain)
				}
			}
		}
	}
}

// What a template cannot do incrementally is said, and every prompt is then
// the server's own rendering.
func TestUnstableTemplatesRenderWholePrompts(t *testing.T) {
	f := func(of chattest.Model, render chattest.Rendering, why string) {
		t.Helper()
		of.Render = render
		template, k := of.Template(t, chat.TemplateAuto)
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
	f(chattest.ChatML, chattest.RenderQwen3, "takes <think>…</think> out of earlier messages")
	f(chattest.Mistral, chattest.RenderMistralLast, "does not show every text once and in order")
	f(chattest.ChatML, func(m []chat.Message, generation bool) (string, error) {
		text, err := chattest.RenderChatML(m, generation)
		return text + "<think>\n", err
	}, `opened by "<|im_end|>\n<|im_start|>assistant\n<think>\n"`)
	f(chattest.ChatML, func(m []chat.Message, _ bool) (string, error) {
		text := ""
		for _, m := range m {
			text += m.Role + ": " + m.Text() + "\n"
		}
		return text + "assistant: ", nil
	}, "no control token ends the policy's message")
	f(chattest.ChatML, func(m []chat.Message, generation bool) (string, error) {
		text, err := chattest.RenderChatML(m, generation)
		return "<|im_start|>turns " + strings.Repeat("I", len(m)) + "<|im_end|>\n" + text, err
	}, "a prompt is not the beginning of the next one")
}

// A default system message and dates only stand at the beginning, and a
// template that knows no system is told its text by the user: prompts grow.
func TestTemplatesWithHabitsAreStable(t *testing.T) {
	const gemma = "<end_of_turn>\n<start_of_turn>model\npull jade<end_of_turn>\n" +
		"<start_of_turn>user\nI wait<end_of_turn>\n<start_of_turn>model\npull bone<end_of_turn>\n<start_of_turn>user\nOut.<end_of_turn>\n<start_of_turn>model\n"
	f := func(of chattest.Model, render chattest.Rendering, told string) {
		t.Helper()
		of.Render = render
		template, k := of.Template(t, chat.TemplateAuto)
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
	f(chattest.ChatML, chattest.RenderQwen25, "")
	f(chattest.Llama3, chattest.RenderLlama31, "")
	f(chattest.Gemma, chattest.RenderGemma2, "<bos><start_of_turn>user\nWalk.\n\nLevers: jade ☂.")
	f(chattest.Gemma, chattest.RenderGemma2Llama, "<bos><start_of_turn>user\nWalk.\nLevers: jade ☂.")
}

func TestTemplatesAreRefusedWithTheRemedy(t *testing.T) {
	f := func(name string, of chattest.Model, r chat.Renderer, want ...string) {
		t.Helper()
		k := of.Tokenizer()
		_, err := chat.NewTemplate(t.Context(), name, k, k, r)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", name, err, w)
			}
		}
	}
	f("vicuna", chattest.ChatML, nil, "template vicuna", "hint: sampler.template is one of auto, chatml, gemma, llama3, mistral")
	f("gemma", chattest.ChatML, nil, "no control token <bos>", `hint: the model has another template; sampler.template = "auto"`)
	f("auto", chattest.ChatML, nil, "does not say how it renders", `hint: name the model's template`)
	broken := chattest.Rendering(func([]chat.Message, bool) (string, error) { return "", errors.New("no template") })
	f("auto", chattest.ChatML, broken, "template auto: render a conversation: no template")
	lossy := chattest.Rendering(func(m []chat.Message, g bool) (string, error) {
		text, err := chattest.RenderChatML(m, g)
		return strings.ReplaceAll(text, "文", "?"), err
	})
	flaky := chattest.Rendering(func(m []chat.Message, g bool) (string, error) {
		if m[0].Role == chat.RoleSystem {
			return "", errors.New("connection reset")
		}
		return chattest.RenderChatML(m, g)
	})
	f("auto", chattest.ChatML, flaky, "render a conversation with a system message: connection reset")
	f("auto", chattest.ChatML, lossy, "cannot be reproduced", "hint: name")
}

func TestConversationsHaveTheirForm(t *testing.T) {
	template, _ := chattest.ChatML.Template(t, "chatml")
	f := func(want string, messages ...chat.Message) {
		t.Helper()
		if _, err := template.Extend(t.Context(), nil, messages...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f(`the last message is ""`)
	f(`the last message is "system"`, chat.NewMessage(chat.RoleSystem, "x"))
	f(`a message of user after one of "user"`, user("x"), user("y"))
	f(`a message of system after one of "user"`, user("x"), chat.NewMessage(chat.RoleSystem, "y"))
	f(`a message of tool after one of ""`, chat.NewMessage("tool", "y"))
}
