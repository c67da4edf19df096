package samplertest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler"
)

func TestWithControlsAddsControlTokens(t *testing.T) {
	plain := NewTokenizer("jade")
	k := plain.WithControls("</s>", "<s>", "</s>")
	if plain.EndOfTurn() != End || k.VocabSize() != plain.VocabSize()+2 {
		t.Errorf("ends with %d, %d ids and %d", plain.EndOfTurn(), plain.VocabSize(), k.VocabSize())
	}
	ids := k.EncodeSpecial("<s>jade<|im_end|></s>")
	if diff := cmp.Diff([]int32{firstWord + 1, firstWord, End, k.EndOfTurn()}, ids); diff != "" ||
		k.Decode(ids) != "<s>jade<|im_end|></s>" {
		t.Errorf("%q: %s", k.Decode(ids), diff)
	}
	if diff := cmp.Diff([]int32{FirstByte + '<', FirstByte + 's', FirstByte + '>'}, k.Encode("<s>")); diff != "" {
		t.Error(diff)
	}
	c := Policy{k, Say("jade")}.Sample(0, sampler.Request{Prompt: ids, MaxTokens: 9})
	if diff := cmp.Diff([]int32{firstWord, k.EndOfTurn()}, c.IDs); diff != "" || c.Text != "jade" ||
		c.Finish != sampler.FinishStop {
		t.Errorf("wrote %q, %s: %s", c.Text, c.Finish, diff)
	}
}
