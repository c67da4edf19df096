package chat

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// whole renders a conversation anew. The renderer sees sentinels in place of
// the texts, so that no text can forge a control token; white space around a
// text, and the marks around a thought, it sees, as templates act on them.
func (t *Template) whole(ctx context.Context, messages []Message) ([]int32, error) {
	messages = t.prepared(messages)
	var texts []string
	hidden := make([]Message, len(messages))
	for i, m := range messages {
		hidden[i] = hide(m, &texts)
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
			return nil, fmt.Errorf("render the conversation: text %s of %d", rendered[m[2]:m[3]], len(texts))
		}
		parts = append(append(parts, cut(rendered[at:m[0]], t.controls)...), part{text: texts[n]})
		at = m[1]
	}
	return t.encode(ctx, append(parts, cut(rendered[at:], t.controls)...))
}

// sentinel stands for the n-th text of a rendering. It is a word that no
// template changes.
func sentinel(n int) string { return fmt.Sprintf("XqText%dqX", n) }

var sentinels = regexp.MustCompile(`XqText(\d+)qX`)

// hide puts sentinels in the place of a message's text and appends what they
// stand for to texts.
func hide(m Message, texts *[]string) Message {
	text := m.Text()
	thought, answer, thinks := strings.Cut(text, thoughtEnd)
	if m.Role != RoleAssistant || !thinks {
		return NewMessage(m.Role, conceal(text, texts))
	}
	start := ""
	if inner, ok := strings.CutPrefix(thought, thoughtStart); ok {
		start, thought = thoughtStart, inner
	}
	return NewMessage(m.Role, start+conceal(thought, texts)+thoughtEnd+conceal(answer, texts))
}

// conceal leaves the white space around a text.
func conceal(text string, texts *[]string) string {
	core := strings.TrimSpace(text)
	if core == "" {
		return text
	}
	at := strings.Index(text, core)
	*texts = append(*texts, core)
	return text[:at] + sentinel(len(*texts)-1) + text[at+len(core):]
}

// prepared are messages as the renderer takes them: trimmed where it would do
// so by itself, if only in part, and the system's text in front of the user's
// where it knows no system.
func (t *Template) prepared(messages []Message) []Message {
	out := make([]Message, len(messages))
	for i, m := range messages {
		out[i] = NewMessage(m.Role, t.text(m))
	}
	if !t.merges || len(out) < 2 || out[0].Role != RoleSystem || out[1].Role != RoleUser {
		return out
	}
	out[1] = NewMessage(RoleUser, out[0].Text()+"\n\n"+out[1].Text())
	return out[1:]
}
