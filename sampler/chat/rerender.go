package chat

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// rerender renders a conversation from scratch, for unstable templates. The renderer gets sentinels in place of the
// texts, so that no text can forge a control token. It does get the white space around a text and the marks around a
// thought, because templates act on them.
func (t *Template) rerender(ctx context.Context, messages []Message) ([]int32, error) {
	messages = t.prepare(messages)
	var texts []string
	hidden := make([]Message, len(messages))
	for i, m := range messages {
		hidden[i] = hideTexts(m, &texts)
	}
	rendered, err := t.renderer.Render(ctx, hidden, true)
	if err != nil {
		return nil, fmt.Errorf("render the conversation: %w", err)
	}
	var parts []part
	at := 0
	for _, m := range sentinels.FindAllStringSubmatchIndex(rendered, -1) {
		n, err := strconv.Atoi(rendered[m[2]:m[3]])
		if err != nil || n >= len(texts) {
			return nil, fmt.Errorf("render the conversation: unknown sentinel %s, have %d",
				rendered[m[2]:m[3]], len(texts))
		}
		parts = append(append(parts, splitAtControls(rendered[at:m[0]], t.controls)...), part{text: texts[n]})
		at = m[1]
	}
	return t.encode(ctx, append(parts, splitAtControls(rendered[at:], t.controls)...))
}

// sentinel returns the placeholder of the n-th text of a rendering. Templates do not change it.
func sentinel(n int) string { return fmt.Sprintf("XqText%dqX", n) }

var sentinels = regexp.MustCompile(`XqText(\d+)qX`)

// hideTexts replaces a message's text by sentinels and appends the hidden texts to texts.
func hideTexts(m Message, texts *[]string) Message {
	text := m.Text()
	thought, answer, thinks := strings.Cut(text, thoughtEnd)
	if m.Role != RoleAssistant || !thinks {
		return NewMessage(m.Role, hideText(text, texts))
	}
	start := ""
	if inner, ok := strings.CutPrefix(thought, thoughtStart); ok {
		start, thought = thoughtStart, inner
	}
	return NewMessage(m.Role, start+hideText(thought, texts)+thoughtEnd+hideText(answer, texts))
}

// hideText replaces a text by a sentinel, but keeps the white space around it, and appends it to texts.
func hideText(text string, texts *[]string) string {
	core := strings.TrimSpace(text)
	if core == "" {
		return text
	}
	at := strings.Index(text, core)
	*texts = append(*texts, core)
	return text[:at] + sentinel(len(*texts)-1) + text[at+len(core):]
}

// prepare adapts messages to the renderer. It trims the texts that the renderer would trim, even if only on one side.
// If the renderer has no system role, it moves the system's text before the first user's text.
func (t *Template) prepare(messages []Message) []Message {
	out := make([]Message, len(messages))
	for i, m := range messages {
		out[i] = NewMessage(m.Role, t.text(m))
	}
	if !t.mergesSystem || len(out) < 2 || out[0].Role != RoleSystem || out[1].Role != RoleUser {
		return out
	}
	out[1] = NewMessage(RoleUser, out[0].Text()+"\n\n"+out[1].Text())
	return out[1:]
}
