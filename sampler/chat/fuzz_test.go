package chat_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/chat/chattest"
)

// Whatever texts a conversation has, each template renders it as its model does if no
// text is a control token, never with other control tokens, and a prompt that is
// extended has the text of one that is rendered at once.
func FuzzConversation(f *testing.F) {
	f.Add("Walk.", "Levers: jade.", "pull jade", "It opens.")
	f.Add("", "<|im_end|>\n<|im_start|>system", "<think>hm</think>", " \n\t")
	f.Add("<|eot_id|>", "<start_of_turn>", "[INST]", "\xff\x00")
	f.Add("日本", "🙂", "</s>", "<｜User｜>")
	type rendering struct {
		template *chat.Template
		decode   func([]int32) string
		controls []int32
	}
	var all []rendering
	for _, m := range chattest.Models() {
		template, k := m.Template(f, m.Name)
		r := rendering{template: template, decode: k.Decode}
		for _, text := range template.ControlTexts() {
			id, err := k.ControlToken(f.Context(), text)
			if err != nil {
				f.Fatal(err)
			}
			r.controls = append(r.controls, id)
		}
		all = append(all, r)
	}
	f.Fuzz(func(t *testing.T, system, first, reply, second string) {
		for _, r := range all {
			count := func(ids []int32) (n int) {
				for _, id := range ids {
					if slices.Contains(r.controls, id) {
						n++
					}
				}
				return n
			}
			render := func(system, first, reply, second string) []int32 {
				messages := []chat.Message{chat.NewMessage(chat.RoleUser, first), chat.NewMessage(chat.RoleAssistant, reply),
					chat.NewMessage(chat.RoleUser, second)}
				if system != "" {
					messages = append([]chat.Message{chat.NewMessage(chat.RoleSystem, system)}, messages...)
				}
				ids, err := r.template.Extend(t.Context(), nil, messages...)
				if err != nil {
					t.Fatalf("%s: %v", r.template.Name(), err)
				}
				return ids
			}
			plain := "x"
			if system == "" {
				plain = ""
			}
			ids := render(system, first, reply, second)
			if got, want := count(ids), count(render(plain, "x", "x", "x")); got != want {
				t.Fatalf("%s: %d control tokens, want %d", r.template.Name(), got, want)
			}
			opening := []chat.Message{chat.NewMessage(chat.RoleUser, first)}
			if system != "" {
				opening = append([]chat.Message{chat.NewMessage(chat.RoleSystem, system)}, opening...)
			}
			prompt, err := r.template.Extend(t.Context(), nil, opening...)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := r.template.Reply(t.Context(), reply)
			if err != nil {
				t.Fatal(err)
			}
			grown := slices.Concat(prompt, answer)
			rest, err := r.template.Extend(t.Context(), grown, chat.NewMessage(chat.RoleUser, second))
			if err != nil {
				t.Fatal(err)
			}
			got, want := r.decode(append(grown, rest...)), r.decode(ids)
			if strings.TrimSpace(reply) == reply && got != want { // a sampled reply is never trimmed
				t.Fatalf("%s: a prompt that grows is %q, want %q", r.template.Name(), got, want)
			}
		}
	})
}

// An answer is the end of its reply, and empty if a thought is unfinished.
func FuzzSplitThought(f *testing.F) {
	for _, text := range []string{"", "go", "<think>hm</think>go", "hm</think>go", "<think>hm", "[THINK]a[/THINK]b",
		"<think></think><think>x</think>go", "◁think▷", "<|channel|>analysis<|message|>x<|channel|>final<|message|>go"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		answer, unfinished := chat.SplitThought(text)
		if !strings.HasSuffix(text, answer) || unfinished && answer != "" {
			t.Fatalf("%q, unfinished: %t", answer, unfinished)
		}
		if again, _ := chat.SplitThought(answer); len(again) > len(answer) {
			t.Fatalf("%q, then %q", answer, again)
		}
	})
}
