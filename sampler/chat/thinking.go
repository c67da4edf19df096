package chat

import (
	"fmt"
	"slices"
	"strings"
)

// Thinking says whether later prompts show the policy's thoughts, <think>…</think>. In both modes the action is the
// part of the reply after the thought; an unfinished thought is no action.
type Thinking string

const (
	// ThinkingKeep keeps thoughts in later prompts. Prompts only grow.
	ThinkingKeep Thinking = "keep"
	// ThinkingStrip removes thoughts from later prompts. The rows are split after every turn with a thought.
	ThinkingStrip Thinking = "strip"
)

// The marks around a thought, as Qwen3, DeepSeek-R1 and similar models write them.
const (
	thoughtStart = "<think>"
	thoughtEnd   = "</think>"
)

// thoughtMarks are the marks around a thought: those of Qwen3 and DeepSeek-R1, of Magistral, of Kimi, of Seed-OSS, of
// gpt-oss with its channels, of LLaMA-o1 and its kind, and those that models write because prompts ask for them.
var thoughtMarks = [][2]string{
	{thoughtStart, thoughtEnd},
	{"[THINK]", "[/THINK]"},
	{"◁think▷", "◁/think▷"},
	{"<seed:think>", "</seed:think>"},
	{"<|channel|>analysis<|message|>", "<|channel|>final<|message|>"},
	{"<|begin_of_thought|>", "<|end_of_thought|>"},
	{"<thinking>", "</thinking>"},
	{"<thought>", "</thought>"},
	{"<reasoning>", "</reasoning>"},
}

// SplitThought returns the part of a reply after its thoughts. A thought stands at the beginning of the reply. Of
// <think> the opening mark may be missing, because some templates write it before the reply. unfinished says that the
// last thought has no end, because the reply was cut off. The answer is then empty.
func SplitThought(text string) (answer string, unfinished bool) {
	start, end := leadingMarks(text)
	for {
		_, after, ended := strings.Cut(text, end)
		if !ended {
			unfinished = start != ""
			break
		}
		text = after
		if start, end = leadingMarks(text); start == "" {
			break
		}
	}
	if unfinished || strings.Contains(text, thoughtStart) && !strings.Contains(text, thoughtEnd) {
		return "", true
	}
	return text, false
}

// leadingMarks returns the marks of the thought that text begins with. Without one, start is empty and end is that of
// a thought whose beginning is missing.
func leadingMarks(text string) (start, end string) {
	text = strings.TrimSpace(text)
	for _, marks := range thoughtMarks {
		if strings.HasPrefix(text, marks[0]) {
			return marks[0], marks[1]
		}
	}
	return "", thoughtEnd
}

// AfterThought returns the text after the thoughts. It is empty if a thought is unfinished.
func AfterThought(text string) string {
	answer, _ := SplitThought(text)
	return answer
}

// Answer returns the reply after its thoughts, without surrounding white space. It is empty if a thought is unfinished.
func Answer(text string) string { return strings.TrimSpace(AfterThought(text)) }

// OpenThought returns the mark of a thought that stands in the prompt, before the reply, or "" if the template writes
// none. The template may be nil.
func (t *Template) OpenThought() string {
	if t == nil {
		return ""
	}
	return t.openThought
}

// openThoughtOf returns the mark of a thought with which the beginning of a reply ends, or "".
func openThoughtOf(beginning string) string {
	beginning = strings.TrimSpace(beginning)
	for _, marks := range thoughtMarks {
		if strings.HasSuffix(beginning, marks[0]) {
			return marks[0]
		}
	}
	return ""
}

// afterThoughtEnd returns the text after the first </think>, or the whole text if there is none.
func afterThoughtEnd(text string) string {
	if _, after, ok := strings.Cut(text, thoughtEnd); ok {
		return after
	}
	return text
}

// CanStrip returns an error if the template does not support [ThinkingStrip]. A nil template supports it, because there
// are no tokens to keep exact.
func (t *Template) CanStrip() error {
	if t == nil || t.unstable != "" || t.thoughtEndID != noToken {
		return nil
	}
	return fmt.Errorf("thoughts cannot be stripped: %s is not a single token of this model\n"+
		"  hint: sampler.thinking = \"keep\"", thoughtEnd)
}

// WithoutThought returns the text of a reply as later prompts show it. Under ThinkingStrip it also returns cut: later
// prompts omit the first cut ids of the reply. The template may be nil.
func (t *Template) WithoutThought(mode Thinking, ids []int32, text string) (cut int, shown string) {
	switch {
	case mode != ThinkingStrip:
		return 0, text
	case t == nil || t.unstable != "":
		return 0, afterThoughtEnd(text)
	}
	if cut = slices.Index(ids, t.thoughtEndID) + 1; cut == 0 {
		return 0, text
	}
	return cut, afterThoughtEnd(text)
}
