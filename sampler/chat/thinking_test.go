package chat_test

import (
	"testing"

	"github.com/empo2/empo2/sampler/chat"
)

// The answer is the text after the thoughts. An unfinished thought has no answer, whatever its marks are.
func TestSplitThought(t *testing.T) {
	f := func(text, answer string, unfinished bool) {
		t.Helper()
		got, open := chat.SplitThought(text)
		if got != answer || open != unfinished {
			t.Errorf("%q: answer %q, unfinished %v", text, got, open)
		}
	}
	f("pull jade", "pull jade", false)
	f("", "", false)
	f("hm</think>pull </think>", "pull </think>", false)
	f("<think>a</think><think>b</think>pull", "pull", false)
	f("<think>a</think>\n<think>b", "", true)
	f("\n <think>hm", "", true)
	f("I will pull. <think>or rather", "", true)
	f("hm</think>pull <think>or", "", true)
	f("look at <thought> bubbles", "look at <thought> bubbles", false) // marks of others only at the beginning
	for _, marks := range [][2]string{
		{"<think>", "</think>"}, {"[THINK]", "[/THINK]"}, {"<thinking>", "</thinking>"}, {"<thought>", "</thought>"},
		{"<reasoning>", "</reasoning>"}, {"<seed:think>", "</seed:think>"}, {"◁think▷", "◁/think▷"},
		{"<|begin_of_thought|>", "<|end_of_thought|>"},
		{"<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"},
	} {
		f(marks[0]+"hm"+marks[1]+"pull", "pull", false)
		f(marks[0]+"hm", "", true)
		f(marks[0], "", true)
	}
}
