package chat

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// testTexts is the number of texts in a test conversation.
const testTexts = 4

// testConversations returns conversations of four turns, without and with a system message, without and with thoughts,
// and with texts in several orders.
func testConversations() [][]Message {
	var all [][]Message
	for _, thinks := range []bool{false, true} {
		for _, system := range []bool{false, true} {
			for first := range testTexts {
				all = append(all, testConversation(system, thinks, first))
			}
		}
	}
	return all
}

// checkPromptsGrow checks that every prompt begins with the prompt and the reply before it. It returns the reason if
// not.
func (d deriver) checkPromptsGrow(ctx context.Context) (string, error) {
	for _, conversation := range testConversations() {
		before := ""
		for _, prompt := range prompts(conversation) {
			rendered, err := d.render(ctx, prompt)
			if err != nil {
				return "", err
			}
			if n := len(prompt); before != "" {
				before += prompt[n-2].Text() // the policy's reply
			}
			if !strings.HasPrefix(rendered, before) {
				return unstableReason(strings.Contains(before, thoughtEnd)), nil
			}
			before = rendered
		}
	}
	return "", nil
}

// checkEqual checks that render reproduces the server's rendering of every prompt. It returns the first difference.
func (d deriver) checkEqual(ctx context.Context, render renderFunc) (difference string, err error) {
	for _, conversation := range testConversations() {
		for _, prompt := range prompts(conversation) {
			if difference, err := d.compareIDs(ctx, prompt, render); difference != "" || err != nil {
				return difference, err
			}
		}
	}
	return "", nil
}

// A renderFunc renders a prompt to token ids.
type renderFunc func(context.Context, []Message) ([]int32, error)

func unstableReason(thinks bool) string {
	if thinks {
		return "it takes " + thoughtStart + "…" + thoughtEnd + " out of earlier messages"
	}
	return "a prompt is not the beginning of the next one"
}

// compareIDs describes the first difference between render's ids of a prompt and the ids of the server's rendering.
func (d deriver) compareIDs(ctx context.Context, prompt []Message, render renderFunc) (difference string, err error) {
	rendered, err := d.render(ctx, prompt)
	if err != nil {
		return "", err
	}
	want, err := d.expectedIDs(ctx, rendered)
	if err != nil {
		return "", err
	}
	got, err := render(ctx, prompt)
	if err != nil || slices.Equal(got, want) {
		return "", err
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("a conversation of %d messages has %d ids, the server's rendering has %d, and they differ from "+
		"number %d on", len(prompt), len(got), len(want), at), nil
}

// testConversation returns a conversation of four turns that begins with the text number first.
func testConversation(system, thinks bool, first int) []Message {
	observations := [testTexts]string{
		"Levers: jade, bone. Door 1 of 2 is iron.",
		"  two spaces in front, one behind ",
		"\n\nBlank lines around.\n- a list\n\tand a tab\n",
		"ünïcödé ☂ 文字 🙂 1234567, 3.14",
	}
	answers := [...]string{"pull jade", "I look around.\nThen I wait.", "öffne die Tür ☂"}
	var messages []Message
	if system {
		messages = append(messages, NewMessage(RoleSystem, observations[(first+1)%len(observations)]))
	}
	for turn := range 4 {
		if turn > 0 {
			answer := answers[(turn+first)%len(answers)]
			if thinks {
				answer = thoughtStart + "\nThe door is shut.\n" + thoughtEnd + "\n\n" + answer
			}
			messages = append(messages, NewMessage(RoleAssistant, answer))
		}
		messages = append(messages, NewMessage(RoleUser, observations[(turn+first)%len(observations)]))
	}
	return messages
}

// prompts returns the beginnings of a conversation that end with a user's message.
func prompts(messages []Message) [][]Message {
	var out [][]Message
	for i, m := range messages {
		if m.Role == RoleUser {
			out = append(out, messages[:i+1])
		}
	}
	return out
}

// render returns the server's rendering of a prompt.
func (d deriver) render(ctx context.Context, messages []Message) (string, error) {
	text, err := d.renderer.Render(ctx, d.prepare(messages), true)
	if err != nil {
		return "", fmt.Errorf("render a conversation: %w", err)
	}
	return text, nil
}

// expectedIDs tokenizes the server's rendering with the SpecialTokenizer. Without one it splits the rendering at its
// control tokens and tokenizes the texts between them.
func (d deriver) expectedIDs(ctx context.Context, rendered string) ([]int32, error) {
	if d.special == nil {
		return d.encode(ctx, splitAtControls(rendered, d.controls))
	}
	ids, err := d.special.TokenizeSpecial(ctx, rendered)
	if err != nil {
		return nil, fmt.Errorf("tokenize a rendering: %w", err)
	}
	return ids, nil
}
