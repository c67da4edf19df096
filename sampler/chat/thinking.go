package chat

import (
	"fmt"
	"slices"
	"strings"
)

// Thinking says what later prompts show of what a policy thought before it
// answered, <think>…</think>. The action is what stands behind the thought
// either way.
type Thinking string

const (
	// ThinkingKeep leaves thoughts where they were written: prompts only grow.
	ThinkingKeep Thinking = "keep"
	// ThinkingStrip takes thoughts out of later prompts. The rows are split
	// after every turn that thought.
	ThinkingStrip Thinking = "strip"
)

// The marks around a thought, as Qwen3, DeepSeek-R1 and their kin write them.
const (
	thoughtStart = "<think>"
	thoughtEnd   = "</think>"
)

// AfterThought is what stands behind the first thought. A thought without an
// end is no thought: the text stays as it is.
func AfterThought(text string) string {
	if _, after, ok := strings.Cut(text, thoughtEnd); ok {
		return after
	}
	return text
}

// Answer is what stands behind the thought in what the policy wrote, without
// white space around.
func Answer(text string) string { return strings.TrimSpace(AfterThought(text)) }

// CanStrip is nil if thoughts can be taken out of later prompts
// ([ThinkingStrip]), else it says why not. Nil templates can: they have no
// tokens to keep exact.
func (t *Template) CanStrip() error {
	if t == nil || t.unstable != "" || t.thought != noToken {
		return nil
	}
	return fmt.Errorf("thoughts cannot be stripped: %s is not one token of this model, and tokens are only cut between ids\n  hint: sampler.thinking = \"keep\"", thoughtEnd)
}

// WithoutThought is what later prompts show of what the policy wrote. With strip, cut
// is how many of the ids are left out; they go together with their text.
func (t *Template) WithoutThought(mode Thinking, ids []int32, text string) (cut int, shown string) {
	switch {
	case mode != ThinkingStrip:
		return 0, text
	case t == nil || t.unstable != "":
		return 0, AfterThought(text)
	}
	if cut = slices.Index(ids, t.thought) + 1; cut == 0 {
		return 0, text
	}
	return cut, AfterThought(text)
}
