package chat

import (
	"slices"
	"strings"
)

// Neutralize breaks up every control token that stands in text as text, by a
// space after its first character: "<|im_end|>" becomes "< |im_end|>". It is
// for what environments, tips and policies say, on the way to a server that
// takes text and parses control tokens in it.
func Neutralize(text string, controls []string) string {
	for {
		broken := text
		for _, c := range controls {
			if len(c) > 1 {
				broken = strings.ReplaceAll(broken, c, c[:1]+" "+c[1:])
			}
		}
		if broken == text {
			return text
		}
		text = broken
	}
}

// ControlTexts are the control tokens of the named templates (none: all), in
// order, as a server that parses text needs them. [Template.ControlTexts] are those of
// one template as its model has it.
func ControlTexts(names ...string) []string {
	var texts []string
	for name, f := range forms() {
		if len(names) == 0 || slices.Contains(names, name) {
			texts = append(texts, f.controls...)
		}
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// NeutralizeMessages returns messages with the control tokens in their texts broken up.
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
