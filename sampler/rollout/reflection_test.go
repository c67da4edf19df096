package rollout_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// actsAndWritesTip is a script that acts, and writes a tip when it is asked for one.
func actsAndWritesTip(tip string) samplertest.Script {
	plain := samplertest.NewTokenizer()
	return func(_ int, prompt []int32) []samplertest.Choice {
		if strings.Contains(plain.LastUser(prompt), "Write one tip") {
			return []samplertest.Choice{{Text: tip, Weight: 1}}
		}
		return []samplertest.Choice{{Text: "pull jade", Weight: 1}}
	}
}

func TestReflectionSeesTheEpisodeWithoutTips(t *testing.T) {
	d, b := newDriver(t, corridors(2), actsAndWritesTip("\n At iron pull jade.  \n"))
	s := spec()
	s.Recall = recalls(prompt.Tip{ID: 4, Text: "Never rest."})
	got := d.Run(t.Context(), s)
	base := sampler.Policy{Version: 0, Name: samplertest.Name(0)}
	if err := d.Reflect(t.Context(), &got, base,
		rollout.ReflectSpec{Temperature: 0.5, MaxTokens: 40, Seed: 11}); err != nil {
		t.Fatal(err)
	}
	call := b.Calls()[2]
	if got.Tip != "At iron pull jade." || got.TipVersion != 0 || !slices.Equal(got.TipIDs, call.Completion.IDs) ||
		len(got.TipLogprobs) != len(got.TipIDs) {
		t.Errorf("tip %q, version %d", got.Tip, got.TipVersion)
	}
	if call.Request.Seed != 11 || call.Request.Temperature != 0.5 || call.Request.MaxTokens != 40 || call.Policy != base {
		t.Errorf("%+v of %+v", call.Request, call.Policy)
	}
	row := got.RowsWithoutTips[0].Tokens
	if !slices.Equal(row, call.Request.Prompt[:len(row)]) {
		t.Error("the prompt does not begin with the row without tips")
	}
	want := "\n<|im_start|>user\nYou are out.\nWrite one tip.<|im_end|>\n<|im_start|>assistant\n"
	if diff := cmp.Diff(want, b.Decode(call.Request.Prompt[len(row):])); diff != "" {
		t.Error(diff)
	}
}

// Earlier tips stand in the request, before what it asks for, and in no row.
func TestReflectionShowsEarlierTips(t *testing.T) {
	d, b := newDriver(t, corridors(2), actsAndWritesTip("At iron pull jade."))
	got := d.Run(t.Context(), spec())
	earlier := []prompt.Tip{{Text: "Never rest."}, {Text: "Pull jade."}}
	how := rollout.ReflectSpec{MaxTokens: 40, Earlier: earlier}
	if err := d.Reflect(t.Context(), &got, spec().Policy, how); err != nil {
		t.Fatal(err)
	}
	row := got.RowsWithoutTips[0].Tokens
	request := b.Decode(b.Calls()[2].Request.Prompt[len(row):])
	if !strings.Contains(request, "\nTips:\n- Never rest.\n- Pull jade.\nWrite one tip.<|im_end|>") {
		t.Errorf("the request is %s", request)
	}
	if text := b.Decode(row); strings.Contains(text, "Never rest.") {
		t.Error("the row has the earlier tip")
	}
}

func TestTrajectoryWithoutTurnsHasNoReflection(t *testing.T) {
	d, b := newDriver(t, corridors(2), actsAndWritesTip("x"))
	var empty rollout.Trajectory
	if err := d.Reflect(t.Context(), &empty, spec().Policy, rollout.ReflectSpec{MaxTokens: 4}); err != nil ||
		empty.Tip != "" {
		t.Errorf("%v, tip %q", err, empty.Tip)
	}
	if len(b.Calls()) != 0 {
		t.Error("the policy was asked")
	}
}

func TestFailedReflectionDoesNotFailTheEpisode(t *testing.T) {
	d, _ := newDriver(t, corridors(2), actsAndWritesTip("x"))
	got := d.Run(t.Context(), spec())
	err := d.Reflect(t.Context(), &got, spec().Policy, rollout.ReflectSpec{MaxTokens: 4, MaxPrompt: 10})
	if !errors.Is(err, sampler.ErrContextFull) {
		t.Errorf("a reflection that is too long: %v", err)
	}
	err = d.Reflect(t.Context(), &got, sampler.Policy{Version: 5}, rollout.ReflectSpec{MaxTokens: 4})
	if !errors.Is(err, sampler.ErrPolicyGone) {
		t.Errorf("a reflection by a retired policy: %v", err)
	}
	if got.Tip != "" || got.Failed() {
		t.Errorf("tip %q, stop %s", got.Tip, got.Stop)
	}
}

// A thought that was cut off is no tip, and it is kept with the episode only as token ids.
func TestAnUnfinishedThoughtIsNoTip(t *testing.T) {
	d, _ := newDriver(t, corridors(2), actsAndWritesTip("<think>pull jade"))
	got := d.Run(t.Context(), spec())
	if err := d.Reflect(t.Context(), &got, spec().Policy, rollout.ReflectSpec{MaxTokens: 64}); err != nil {
		t.Fatal(err)
	}
	if got.Tip != "" || len(got.TipIDs) == 0 {
		t.Errorf("tip %q of %d ids", got.Tip, len(got.TipIDs))
	}
}

func TestCleanTipGetsTheReplyWithoutItsThought(t *testing.T) {
	d, _ := newDriver(t, corridors(2), actsAndWritesTip("<think>hm</think> pull jade "))
	d.PromptTemplate.MaxTipCharacters = 5
	d.CleanTip = func(reply string, limit int) string { return fmt.Sprintf("%d of %q", limit, reply) }
	got := d.Run(t.Context(), spec())
	if err := d.Reflect(t.Context(), &got, spec().Policy, rollout.ReflectSpec{MaxTokens: 64}); err != nil {
		t.Fatal(err)
	}
	if want := `5 of " pull jade "`; got.Tip != want {
		t.Errorf("tip %s, want %s", got.Tip, want)
	}
}
