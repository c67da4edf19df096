package demos

import (
	"database/sql"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/rollout"
)

// A run's episodes are chosen by success or return; equal ones are taken once.
func TestEpisodesOfARun(t *testing.T) {
	l, err := ledger.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	text := func(action string) string {
		if action == "" {
			return "\n"
		}
		return "<think></think>" + action
	}
	add := func(step int64, episode int, action string, reward float64, success bool) {
		t.Helper()
		prompt := chat.Message{Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.TipsSpan, Text: "tip"},
			{Kind: chat.StateSpan, Text: "state"}}}
		stored, err := json.Marshal(rollout.Trajectory{Task: envs.Task{ID: "t"}, Success: success,
			Turns: []rollout.Turn{{Prompt: []chat.Message{prompt}, Action: action, Text: text(action)}}})
		if err != nil {
			t.Fatal(err)
		}
		err = l.AddEpisode(t.Context(), ledger.Episode{Step: step, Episode: episode, Task: "t", EnvReturn: reward,
			Success: success, Trajectory: stored})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(1, 0, "old", 1, true)
	add(1, 1, "fail", 0.2, false)
	add(1, 2, "old", 1, true)
	add(2, 0, "new", 0.7, true)
	add(2, 1, "", 0.8, true) // a warm start refuses a reply without text
	add(3, 0, "uncommitted", 1, true)
	for step := int64(1); step <= 2; step++ {
		s := ledger.Step{Step: step, Metrics: json.RawMessage("{}")}
		if err := l.Commit(t.Context(), s, nil, func(*sql.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	f := func(e Episodes, prompt string, want ...string) {
		t.Helper()
		e.Ledger = l
		all, empty, err := e.Collect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if empty != 1 {
			t.Errorf("%d episodes are left out for a reply without text, want 1", empty)
		}
		var got []string
		for _, d := range all {
			got = append(got, d.Messages[1].Content)
			if d.Messages[0].Content != prompt || d.Source.Tips == e.WithoutTips {
				t.Errorf("prompt %q of %+v", d.Messages[0].Content, d.Source)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	least := 0.1
	f(Episodes{}, "tip\nstate", "<think></think>new", "<think></think>old")
	f(Episodes{MinReturn: &least, WithoutTips: true}, "state",
		"<think></think>new", "<think></think>old", "<think></think>fail")
}
