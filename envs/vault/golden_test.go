package vault

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// goldenPath is read by the tests in Go and in Python. Python writes the texts for
// pre-training the base policy, and Go writes the texts of the episodes.
const goldenPath = "../../trainer_bridge/trainer/testdata/vault_golden.json"

type golden struct {
	Words struct {
		Doors  []string `json:"doors"`
		Levers []string `json:"levers"`
	} `json:"words"`
	Partition []struct {
		Rule      map[string]string `json:"rule"`
		Canonical string            `json:"canonical"`
		Hash      string            `json:"fnv1a"` // decimal
		Class     string            `json:"class"`
	} `json:"partition"`
	Conversations []conversation `json:"conversations"`
}

type conversation struct {
	Doors  []string   `json:"doors"`
	Levers [][]string `json:"levers"`
	Right  []string   `json:"right"`
	Turns  []struct {
		Tips   []string `json:"tips"`
		Action string   `json:"action"`
	} `json:"turns"`
	WithTips    []message `json:"with_tips"`
	WithoutTips []message `json:"without_tips"`
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

func readGolden(t *testing.T) (g golden) {
	t.Helper()
	data, err := os.ReadFile(goldenPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatalf("%s: %v", goldenPath, err)
	}
	if len(g.Partition) == 0 || len(g.Conversations) == 0 {
		t.Fatalf("%s is empty", goldenPath)
	}
	return g
}

func TestGoldenWordsAndPartition(t *testing.T) {
	g := readGolden(t)
	if diff := cmp.Diff(g.Words.Doors, doorNames[:]); diff != "" {
		t.Errorf("doors:\n%s", diff)
	}
	if diff := cmp.Diff(g.Words.Levers, leverNames[:]); diff != "" {
		t.Errorf("levers:\n%s", diff)
	}
	names := [houseClasses]string{"pretrain", "pretrain", "gate", "rl"}
	for _, p := range g.Partition {
		c := canonical(p.Rule)
		if c != p.Canonical {
			t.Errorf("canonical %q, want %q", c, p.Canonical)
		}
		if hash := strconv.FormatUint(fingerprint(c), 10); hash != p.Hash || names[class(c)] != p.Class {
			t.Errorf("%s is %s in class %s, want %s in %s", c, hash, names[class(c)], p.Hash, p.Class)
		}
	}
}

func TestGoldenConversations(t *testing.T) {
	for _, c := range readGolden(t).Conversations {
		if diff := cmp.Diff(c.WithTips, c.play(t, true)); diff != "" {
			t.Errorf("with tips (-python +go):\n%s", diff)
		}
		if diff := cmp.Diff(c.WithoutTips, c.play(t, false)); diff != "" {
			t.Errorf("without tips (-python +go):\n%s", diff)
		}
	}
}

// play plays the actions of a conversation. The last message, a tip of the policy,
// is taken from the file.
func (c conversation) play(t *testing.T, tips bool) []message {
	t.Helper()
	e := &episode{corridor: corridor{doors: c.Doors, listed: c.Levers, right: c.Right}}
	obs, err := e.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	chat := []message{{"system", instruction}}
	for _, turn := range c.Turns {
		var lines []string
		if obs.Feedback != "" {
			lines = append(lines, obs.Feedback)
		}
		if tips && len(turn.Tips) > 0 {
			lines = append(lines, "Tips:\n- "+strings.Join(turn.Tips, "\n- "))
		}
		lines = append(lines, obs.State)
		chat = append(chat, message{"user", strings.Join(lines, "\n")}, message{"assistant", turn.Action})
		step, err := e.Step(t.Context(), turn.Action)
		if err != nil {
			t.Fatal(err)
		}
		obs = step.Observation
	}
	return append(chat, message{"user", obs.Feedback + "\n" + reflection}, c.WithTips[len(c.WithTips)-1])
}
