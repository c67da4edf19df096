package chat

import (
	"slices"
	"strings"
)

// Neutralize inserts a space after the first character of every control token in text: "<|im_end|>" becomes
// "< |im_end|>". Use it for texts of environments, tips and policies if the server parses control tokens in text.
func Neutralize(text string, controls []string) string {
	for {
		replaced := text
		for _, c := range controls {
			if len(c) > 1 {
				replaced = strings.ReplaceAll(replaced, c, c[:1]+" "+c[1:])
			}
		}
		if replaced == text {
			return text
		}
		text = replaced
	}
}

// ControlTexts returns the control tokens of the given named templates (none: of all), sorted. For the control tokens
// of one template and model see [Template.ControlTexts].
func ControlTexts(names ...string) []string {
	var texts []string
	for name, f := range namedTemplates() {
		if len(names) == 0 || slices.Contains(names, name) {
			texts = append(texts, f.controls...)
		}
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// NeutralizeMessages returns a copy of messages with [Neutralize] applied to their texts.
func NeutralizeMessages(messages []Message, controls []string) []Message {
	if len(controls) == 0 {
		return messages
	}
	out := make([]Message, len(messages))
	for i, m := range messages {
		out[i].Role = m.Role
		for _, s := range m.Spans {
			out[i].Spans = append(out[i].Spans, Span{s.Kind, Neutralize(s.Text, controls)})
		}
	}
	return out
}
