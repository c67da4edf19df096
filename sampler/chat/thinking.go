package chat

import (
	"fmt"
	"slices"
	"strings"
)

// Thinking says whether later prompts show the policy's thoughts, <think>…</think>. In both modes the action is the
// part of the reply after the thought.
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

// AfterThought returns the text after the first </think>, or the whole text if there is none.
func AfterThought(text string) string {
	if _, after, ok := strings.Cut(text, thoughtEnd); ok {
		return after
	}
	return text
}

// Answer returns the reply after the thought, without surrounding white space.
func Answer(text string) string { return strings.TrimSpace(AfterThought(text)) }

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
		return 0, AfterThought(text)
	}
	if cut = slices.Index(ids, t.thoughtEndID) + 1; cut == 0 {
		return 0, text
	}
	return cut, AfterThought(text)
}
