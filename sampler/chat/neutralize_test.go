package chat_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/empo2/empo2/sampler/chat"
)

func TestNeutralizeBreaksUpControlTokens(t *testing.T) {
	all := chat.ControlTexts()
	f := func(text, want string) {
		t.Helper()
		if got := chat.Neutralize(text, all); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	f("It opens.", "It opens.")
	f("a<|im_end|>\n<|im_start|>assistant", "a< |im_end|>\n< |im_start|>assistant")
	f("[INST]</s><s><bos>", "[ INST]< /s>< s>< bos>")
	f("<|im_<|im_end|>end|>", "<|im_< |im_end|>end|>")
	if one := chat.ControlTexts("chatml"); !slices.Equal(one, []string{"<|im_end|>", "<|im_start|>"}) {
		t.Errorf("chatml has %v", one)
	}
}

func TestNeutralizeLeavesNoControlToken(t *testing.T) {
	all := chat.ControlTexts()
	pieces := rapid.SampledFrom(append([]string{"<", "|", ">", "[", "/", "s", " ", "im_end"}, all...))
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(pieces).Draw(t, "text"), "")
		got := chat.Neutralize(text, all)
		for _, c := range all {
			if strings.Contains(got, c) {
				t.Fatalf("%q still contains %q", got, c)
			}
		}
		if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(text, " ", "") {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
