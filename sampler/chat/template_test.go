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

// unevenConversation is a conversation whose texts have white space at their ends.
func unevenConversation(system bool) []chat.Message {
	var out []chat.Message
	if system {
		out = append(out, chat.NewMessage(chat.RoleSystem, " Walk.\n"))
	}
	return append(out,
		chat.NewMessage(chat.RoleUser, "\nLevers: jade ☂. "), chat.NewMessage(chat.RoleAssistant, "pull jade"),
		chat.NewMessage(chat.RoleUser, "  I wait\n\n"), chat.NewMessage(chat.RoleAssistant, "pull bone"),
		chat.NewMessage(chat.RoleUser, "Out."))
}

// A named template and the derived template render as the model's own template.
func TestTemplatesRenderAsTheirModels(t *testing.T) {
	for _, f := range chattest.Models() {
		for _, name := range []string{f.Name, chat.TemplateAuto} {
			template, k := f.Template(t, name)
			if reason := template.Unstable(); reason != "" ||
				template.Name() != name || template.EOS() != k.EndOfTurn() {
				t.Errorf("%s: unstable %q, name %s, end %d", f.Name, reason, template.Name(), template.EOS())
			}
			for _, system := range []bool{false, true} {
				messages := unevenConversation(system)
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

// No text of an environment or a tip becomes a control token.
func TestTextsCannotForgeControlTokens(t *testing.T) {
	for _, f := range chattest.Models() {
		for _, name := range []string{f.Name, chat.TemplateAuto} {
			template, k := f.Template(t, name)
			count := func(text string) (n int) {
				messages := []chat.Message{chat.NewMessage(chat.RoleSystem, text), chat.NewMessage(chat.RoleUser, text)}
				ids, err := template.Extend(t.Context(), nil, messages...)
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
					t.Errorf("%s of %s: %q gives %d control tokens, want %d", name, f.Name, c, got, plain)
				}
			}
		}
	}
}

// An unstable template has a reason, and it renders every prompt as the server does.
func TestUnstableTemplatesRenderFromScratch(t *testing.T) {
	f := func(m chattest.Model, render chattest.Rendering, reason string) {
		t.Helper()
		m.Render = render
		template, k := m.Template(t, chat.TemplateAuto)
		if got := template.Unstable(); !strings.Contains(got, reason) {
			t.Errorf("unstable: %q, want %q", got, reason)
		}
		for _, system := range []bool{false, true} {
			messages := unevenConversation(system)
			firstReply := &messages[len(messages)-4].Spans[0]
			firstReply.Text = "<think>\nhm <|im_end|>\n</think>\n\npull <|im_end|>"
			got, err := template.Extend(t.Context(), nil, messages...)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := render(messages, true)
			if diff := cmp.Diff(want, k.Decode(got)); diff != "" {
				t.Error(diff)
			}
			end, _ := k.ControlToken(t.Context(), "<|im_end|>")
			plain, _ := render(unevenConversation(system), true)
			n := len(slices.DeleteFunc(got, func(id int32) bool { return id != end }))
			if n != strings.Count(plain, "<|im_end|>") {
				t.Errorf("%d end tokens: the reply forged some", n)
			}
		}
		_, err := template.Extend(t.Context(), []int32{50}, user("x"))
		if err == nil || !strings.Contains(err.Error(), "is unstable") {
			t.Errorf("extended: %v", err)
		}
	}
	f(chattest.ChatML, chattest.RenderQwen3, "takes <think>…</think> out of earlier messages")
	f(chattest.Mistral, chattest.RenderMistralLast, "does not show every text once and in order")
	f(chattest.ChatML, func(m []chat.Message, generation bool) (string, error) {
		text, err := chattest.RenderChatML(m, generation)
		return text + "<think>\n", err
	}, `begins after "<|im_end|>\n<|im_start|>assistant\n<think>\n"`)
	opensThought := chattest.Rendering(func(m []chat.Message, generation bool) (string, error) {
		text, err := chattest.RenderChatML(m, generation)
		return text + "<think>\n", err
	})
	k := chattest.ChatML.Tokenizer()
	template, err := chat.NewTemplate(t.Context(), chat.TemplateAuto, k, k, opensThought)
	if end, _ := k.ControlToken(t.Context(), "<|im_end|>"); err != nil || template.EOS() != end {
		t.Errorf("the end token of an unstable template: %v, %v", template, err)
	}
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

// Prompts only grow if a template adds a default system message or dates at the beginning, or has no system role.
func TestTemplatesWithAnUnusualBeginningAreStable(t *testing.T) {
	const gemma = "<end_of_turn>\n<start_of_turn>model\npull jade<end_of_turn>\n" +
		"<start_of_turn>user\nI wait<end_of_turn>\n<start_of_turn>model\npull bone<end_of_turn>\n" +
		"<start_of_turn>user\nOut.<end_of_turn>\n<start_of_turn>model\n"
	f := func(m chattest.Model, render chattest.Rendering, withSystem string) {
		t.Helper()
		m.Render = render
		template, k := m.Template(t, chat.TemplateAuto)
		if reason := template.Unstable(); reason != "" {
			t.Errorf("unstable: %s", reason)
		}
		for _, system := range []bool{false, true} {
			messages := unevenConversation(system)
			got, err := template.Extend(t.Context(), nil, messages...)
			if err != nil {
				t.Fatal(err)
			}
			want := withSystem + gemma
			if !system || withSystem == "" {
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

func TestTemplateErrorsHaveHints(t *testing.T) {
	f := func(name string, m chattest.Model, r chat.Renderer, want ...string) {
		t.Helper()
		k := m.Tokenizer()
		_, err := chat.NewTemplate(t.Context(), name, k, k, r)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", name, err, w)
			}
		}
	}
	f("vicuna", chattest.ChatML, nil, "template vicuna",
		"hint: sampler.template is one of auto, chatml, gemma, llama3, mistral")
	f("gemma", chattest.ChatML, nil, "no control token <bos>",
		`hint: of the named templates, "chatml" fits the model's control tokens; sampler.template = "auto"`)
	f("auto", chattest.ChatML, nil, "does not return its rendering", `hint: name the model's template`)
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

func TestExtendChecksTheOrderOfRoles(t *testing.T) {
	template, _ := chattest.ChatML.Template(t, "chatml")
	f := func(want string, messages ...chat.Message) {
		t.Helper()
		if _, err := template.Extend(t.Context(), nil, messages...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f(`the role of the last message is ""`)
	f(`the role of the last message is "system"`, chat.NewMessage(chat.RoleSystem, "x"))
	f(`a message of role user after role "user"`, user("x"), user("y"))
	f(`a message of role system after role "user"`, user("x"), chat.NewMessage(chat.RoleSystem, "y"))
	f(`a message of role tool after role ""`, chat.NewMessage("tool", "y"))
}
