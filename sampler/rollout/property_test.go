package rollout_test

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/chat/chattest"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// tipMarker occurs in every tip of the property tests and nowhere else. The tokenizer never merges it.
const tipMarker = "\a"

var (
	// texts are texts of an environment, a policy or a tip that might break the rendering.
	texts = rapid.SampledFrom([]string{
		"", "It opens.", "Tips:\n- pull jade", "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\npull jade",
		"\n", "\nTips:", "- ",
		"Levers: jade, bone. Door 1 of 2 is iron.", "ünïcödé ☂", "user\n", "pull jade",
	})
	tips = rapid.Custom(func(t *rapid.T) prompt.Tip {
		return prompt.Tip{
			ID:   rapid.Int64Range(1, 12).Draw(t, "id"),
			Text: texts.Draw(t, "before") + tipMarker + texts.Draw(t, "after"),
		}
	})
)

// adversarialScript writes one of several texts that might break the rendering. Some have a common beginning.
func adversarialScript(int, []int32) []samplertest.Choice {
	return []samplertest.Choice{
		{Text: "pull jade", Weight: 2}, {Text: "pull", Weight: 1}, {Text: "<|im_end|>", Weight: 1},
		{Text: "a\nTips:\n- b", Weight: 1}, {Text: "", Weight: 0.5},
		{Text: "<think>\nhm\n</think>pull jade", Weight: 1}, {Text: "<think></think>",
			Weight: 0.5}, {Text: "<think>pull", Weight: 0.5},
	}
}

// randomEpisode plays a random episode with ChatML. Some of its log-probs are missing.
func randomEpisode(t *rapid.T, keep rollout.Keep) (rollout.Trajectory, *samplertest.Scripted) {
	return rendering{chattest.ChatML, chat.TemplateChatML, keep, ""}.randomEpisode(t)
}

// A rendering says how the prompts of a random episode are rendered.
type rendering struct {
	model    chattest.Model
	template string
	keep     rollout.Keep
	thinking chat.Thinking
}

// randomEpisode plays a random episode. Some of its log-probs are missing.
func (r rendering) randomEpisode(t *rapid.T) (rollout.Trajectory, *samplertest.Scripted) {
	n := rapid.IntRange(1, 6).Draw(t, "turns")
	w := &corridor{
		reset: func(context.Context) (envs.Observation, error) {
			return envs.Observation{State: texts.Draw(t, "state")}, nil
		},
		step: func(_ context.Context, i int, _ string) (envs.Step, error) {
			o := envs.Observation{Feedback: texts.Draw(t, "feedback"), State: texts.Draw(t, "state")}
			return envs.Step{Observation: o, Reward: 1, Terminated: i == n-1}, nil
		},
	}
	d, b := newDriverOf(t, r.model, r.template, single(w), adversarialScript, chattest.Mergers...)
	d.Thinking = r.thinking
	gaps := rapid.Bool().Draw(t, "gaps")
	b.AfterSample = func(c *sampler.Completion) {
		if gaps {
			c.Logprobs[0] = float32(math.NaN())
		}
	}
	s := spec()
	s.Seed = rapid.Uint64().Draw(t, "seed")
	s.MaxTokens = rapid.IntRange(1, 12).Draw(t, "max tokens")
	s.Keep = r.keep
	if rapid.IntRange(0, 4).Draw(t, "memory") > 0 {
		s.Recall = func(context.Context, rollout.Query) (rollout.Recalled, error) {
			return rollout.Recalled{Tips: rapid.SliceOfN(tips, 0, 4).Draw(t, "tips")}, nil
		}
	}
	got := d.Run(context.Background(), s)
	if got.Failed() {
		t.Fatalf("failed: %s", got.Err)
	}
	return got, b
}

// rowWithoutTips builds the expected row without tips by hand.
func rowWithoutTips(b *samplertest.Scripted, tr rollout.Trajectory) (tokens []int32) {
	message := func(text string) {
		tokens = slices.Concat(tokens, []int32{samplertest.Start}, b.Encode(text), []int32{samplertest.End}, b.Encode("\n"))
	}
	message("system\n" + tr.Task.Instruction)
	for i, turn := range tr.Turns {
		if i > 0 {
			if tokens[len(tokens)-1] != samplertest.End {
				tokens = append(tokens, samplertest.End)
			}
			tokens = append(tokens, b.Encode("\n")...)
		}
		texts := []string{turn.Observation.Feedback, turn.Observation.State}
		texts = slices.DeleteFunc(texts, func(s string) bool { return s == "" })
		message("user\n" + strings.Join(texts, "\n"))
		tokens = slices.Concat(tokens, []int32{samplertest.Start}, b.Encode("assistant\n"), turn.IDs)
	}
	return tokens
}

// checkTrained compares the trained tokens of rows with the sampled tokens.
func checkTrained(t *rapid.T, what string, rows []rollout.Row, turns []rollout.Turn) {
	type token struct {
		ID      int32
		Logprob float32
	}
	var got, want []token
	for _, row := range rows {
		if len(row.LossMask) != len(row.Tokens) || len(row.Logprobs) != len(row.Tokens) {
			t.Fatalf("%s: lengths %d, %d, %d", what, len(row.Tokens), len(row.LossMask), len(row.Logprobs))
		}
		for i, trained := range row.LossMask {
			if trained {
				got = append(got, token{row.Tokens[i], row.Logprobs[i]})
			} else if row.Logprobs[i] != 0 {
				t.Fatalf("%s: an untrained token has log-prob %v", what, row.Logprobs[i])
			}
		}
	}
	for _, turn := range turns {
		for i, id := range turn.IDs {
			if !math.IsNaN(float64(turn.Logprobs[i])) {
				want = append(want, token{id, turn.Logprobs[i]})
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s: trained tokens: %s", what, diff)
	}
}

// For all texts, the row with tips is what the backend consumed and produced, and the row without tips has no tip.
func TestRowsEqualTheServersTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		got, b := randomEpisode(t, rollout.KeepAll)
		calls := b.Calls()
		var before []int32
		for i, c := range calls {
			if !slices.Equal(before, c.Request.Prompt[:len(before)]) {
				t.Fatalf("the prompt of turn %d does not begin with the turn before", i)
			}
			before = slices.Concat(c.Request.Prompt, c.Completion.IDs)
		}
		if len(got.RowsWithTips) != 1 || len(got.RowsWithoutTips) != 1 || got.Splits != 0 {
			t.Fatalf("%d and %d rows, %d splits", len(got.RowsWithTips), len(got.RowsWithoutTips), got.Splits)
		}
		if diff := cmp.Diff(before, got.RowsWithTips[0].Tokens); diff != "" {
			t.Fatalf("row with tips: %s", diff)
		}
		if diff := cmp.Diff(rowWithoutTips(b, got), got.RowsWithoutTips[0].Tokens); diff != "" {
			t.Fatalf("row without tips: %s", diff)
		}
		if slices.Contains(got.RowsWithoutTips[0].Tokens, b.Encode(tipMarker)[0]) {
			t.Fatalf("the row without tips has a tip")
		}
		checkTrained(t, "with tips", got.RowsWithTips, got.Turns)
		checkTrained(t, "without tips", got.RowsWithoutTips, got.Turns)
		checkShownOnce(t, got)
	})
}

// checkShownOnce checks that no tip is shown twice, and that the rows differ exactly if a tip is shown.
func checkShownOnce(t *rapid.T, got rollout.Trajectory) {
	ids, texts := map[int64]bool{}, map[string]bool{}
	shown := false
	for _, turn := range got.Turns {
		for _, tip := range turn.Tips {
			if ids[tip.ID] || texts[tip.Text] {
				t.Fatalf("tip %d was shown twice", tip.ID)
			}
			ids[tip.ID], texts[tip.Text], shown = true, true, true
		}
	}
	if same := slices.Equal(got.RowsWithoutTips[0].Tokens, got.RowsWithTips[0].Tokens); same == shown {
		t.Fatalf("tips shown: %v, rows equal: %v", shown, same)
	}
}

// If the prompt shows only the tips of the newest turn, there is still one row without tips, and every sampled token is
// trained once.
func TestKeepLatestSplitsOnlyTheRowsWithTips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		got, b := randomEpisode(t, rollout.KeepLatest)
		if len(got.RowsWithoutTips) != 1 || len(got.RowsWithTips) != got.Splits+1 {
			t.Fatalf("%d and %d rows, %d splits", len(got.RowsWithoutTips), len(got.RowsWithTips), got.Splits)
		}
		if diff := cmp.Diff(rowWithoutTips(b, got), got.RowsWithoutTips[0].Tokens); diff != "" {
			t.Fatalf("row without tips: %s", diff)
		}
		splits := 0 // after every turn with tips, if another follows
		for _, turn := range got.Turns[:len(got.Turns)-1] {
			if len(turn.Tips) > 0 {
				splits++
			}
		}
		if got.Splits != splits {
			t.Fatalf("%d splits, want %d", got.Splits, splits)
		}
		for i, c := range b.Calls() {
			tokens := slices.Concat(c.Request.Prompt, c.Completion.IDs)
			if !slices.ContainsFunc(got.RowsWithTips, func(row rollout.Row) bool {
				return len(tokens) <= len(row.Tokens) && slices.Equal(tokens, row.Tokens[:len(tokens)])
			}) {
				t.Fatalf("turn %d is in no row", i)
			}
			shows := slices.Contains(c.Request.Prompt, b.Encode(tipMarker)[0])
			if shows != (len(got.Turns[i].Tips) > 0) {
				t.Fatalf("turn %d: tips in the prompt: %v, in the turn: %d", i, shows, len(got.Turns[i].Tips))
			}
		}
		checkTrained(t, "with tips", got.RowsWithTips, got.Turns)
		checkTrained(t, "without tips", got.RowsWithoutTips, got.Turns)
	})
}

func equalRows(a, b rollout.Row) bool {
	return slices.Equal(a.Tokens, b.Tokens) && slices.Equal(a.LossMask, b.LossMask) && slices.Equal(a.Logprobs, b.Logprobs)
}

func TestTrajectoryDoesNotChangeInJSON(t *testing.T) {
	models := []chattest.Model{chattest.ChatML, {End: chattest.ChatML.End, Render: chattest.RenderQwen3}}
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(models).Draw(t, "model")
		keep := rapid.SampledFrom([]rollout.Keep{"", rollout.KeepAll, rollout.KeepLatest}).Draw(t, "keep")
		thinking := rapid.SampledFrom([]chat.Thinking{"", chat.ThinkingKeep, chat.ThinkingStrip}).Draw(t, "thinking")
		want, _ := rendering{m, chat.TemplateAuto, keep, thinking}.randomEpisode(t)
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got rollout.Trajectory
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(want.RowsWithTips, got.RowsWithTips, equalRows) ||
			!slices.EqualFunc(want.RowsWithoutTips, got.RowsWithoutTips, equalRows) {
			t.Fatalf("the rows changed")
		}
		want.RowsWithTips, want.RowsWithoutTips, got.RowsWithTips, got.RowsWithoutTips = nil, nil, nil, nil // large
		if diff := cmp.Diff(want, got, cmpopts.EquateNaNs()); diff != "" {
			t.Fatal(diff)
		}
	})
}
