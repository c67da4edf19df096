package chat

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

const shifts = 4

// talks are conversations of four turns: without and with a system message,
// without and with thoughts, and texts in several orders.
func talks() [][]Message {
	var all [][]Message
	for _, thinks := range []bool{false, true} {
		for _, system := range []bool{false, true} {
			for shift := range shifts {
				all = append(all, talk(system, thinks, shift))
			}
		}
	}
	return all
}

// grows says why the prompts of conversations do not only grow.
func (d deriver) grows(ctx context.Context) (string, error) {
	for _, talk := range talks() {
		before := ""
		for _, prompt := range prompts(talk) {
			rendered, err := d.render(ctx, prompt)
			if err != nil {
				return "", err
			}
			if n := len(prompt); before != "" {
				before += prompt[n-2].Text() // what the policy wrote
			}
			if !strings.HasPrefix(rendered, before) {
				return shrinks(strings.Contains(before, thoughtEnd)), nil
			}
			before = rendered
		}
	}
	return "", nil
}

// equals holds a way to compose prompts against the server's renderings, and
// says where they differ.
func (d deriver) equals(ctx context.Context, ours func(context.Context, []Message) ([]int32, error)) (string, error) {
	for _, talk := range talks() {
		for _, prompt := range prompts(talk) {
			if why, err := d.compare(ctx, prompt, ours); why != "" || err != nil {
				return why, err
			}
		}
	}
	return "", nil
}

func shrinks(thinks bool) string {
	if thinks {
		return "it takes " + thoughtStart + "…" + thoughtEnd + " out of earlier messages"
	}
	return "a prompt is not the beginning of the next one"
}

// compare says where a composed prompt differs from the server's rendering.
func (d deriver) compare(ctx context.Context, prompt []Message, ours func(context.Context, []Message) ([]int32, error)) (string, error) {
	rendered, err := d.render(ctx, prompt)
	if err != nil {
		return "", err
	}
	want, err := d.reference(ctx, rendered)
	if err != nil {
		return "", err
	}
	got, err := ours(ctx, prompt)
	if err != nil || slices.Equal(got, want) {
		return "", err
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("a conversation of %d messages is %d ids, the server's rendering %d, and they differ from number %d on",
		len(prompt), len(got), len(want), at), nil
}

// talk is a conversation of four turns; shift is the text that it begins with.
func talk(system, thinks bool, shift int) []Message {
	observations := [shifts]string{
		"Levers: jade, bone. Door 1 of 2 is iron.",
		"  two spaces in front, one behind ",
		"\n\nBlank lines around.\n- a list\n\tand a tab\n",
		"ünïcödé ☂ 文字 🙂 1234567, 3.14",
	}
	answers := [...]string{"pull jade", "I look around.\nThen I wait.", "öffne die Tür ☂"}
	var messages []Message
	if system {
		messages = append(messages, NewMessage(RoleSystem, observations[(shift+1)%len(observations)]))
	}
	for turn := range 4 {
		if turn > 0 {
			answer := answers[(turn+shift)%len(answers)]
			if thinks {
				answer = thoughtStart + "\nThe door is shut.\n" + thoughtEnd + "\n\n" + answer
			}
			messages = append(messages, NewMessage(RoleAssistant, answer))
		}
		messages = append(messages, NewMessage(RoleUser, observations[(turn+shift)%len(observations)]))
	}
	return messages
}

// prompts are the beginnings of a conversation that a policy would see.
func prompts(messages []Message) [][]Message {
	var out [][]Message
	for i, m := range messages {
		if m.Role == RoleUser {
			out = append(out, messages[:i+1])
		}
	}
	return out
}

func (d deriver) render(ctx context.Context, messages []Message) (string, error) {
	text, err := d.renderer.Render(ctx, d.prepared(messages), true)
	if err != nil {
		return "", fmt.Errorf("render a conversation: %w", err)
	}
	return text, nil
}

// reference is the rendering in ids: by the server, or as good as it gets.
func (d deriver) reference(ctx context.Context, rendered string) ([]int32, error) {
	if d.special == nil {
		return d.encode(ctx, cut(rendered, d.controls))
	}
	ids, err := d.special.TokenizeSpecial(ctx, rendered)
	if err != nil {
		return nil, fmt.Errorf("tokenize a rendering: %w", err)
	}
	return ids, nil
}
