package agentgym

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/empo2/empo2/envs/remote/numbered"
)

// A dialect has the differences between the servers of AgentGym.
type dialect struct {
	greeting string         // the answer to GET /
	prefix   string         // of all other paths
	create   map[string]any // body of /create
	bare     bool           // /create answers with a number, not with {"id": …}
	id       string         // field that names the environment in requests
	index    string         // field of /reset that names the task
	also     map[string]any // further fields of /reset
	closes   bool           // the server has /close
	// task is the field of the answer to /reset that precedes the observation.
	// text and actions are fields of the answers to /reset and /step. Empty:
	// there is no such field.
	task, text, actions string
	score               string // field of the answer to /step; empty: the score is the sum of rewards
	cumulative          bool   // the reward is the sum of the episode so far
	// An episode is a success if the server ends it and the field judge (score
	// or reward) is solved or more.
	judge       string
	solved      float64
	count       uint64 // number of tasks; 0: it depends on the server's data
	splits      func() numbered.Splits
	instruction string
}

// object fills in the common fields of the servers with {"id": …}.
func object(d dialect) dialect {
	d.id, d.judge = "id", orElse(d.judge, "reward")
	d.index, d.text = orElse(d.index, "data_idx"), "observation"
	d.create = map[string]any{}
	return d
}

// idx fills in the common fields of the servers with a bare number.
func idx(d dialect) dialect {
	d.id, d.bare, d.greeting = "env_idx", true, "ok"
	d.index, d.text, d.judge = orElse(d.index, "id"), orElse(d.text, "observation"), "reward"
	d.solved = 1
	if d.create == nil {
		d.create = map[string]any{}
	}
	return d
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// tool is a server with tools. Its /create wants a task, and its reward is the
// progress so far.
func tool(instruction string) dialect {
	return idx(dialect{create: map[string]any{"id": 0}, cumulative: true, instruction: instruction +
		" Answer with one line: Action: NAME with Action Input: {JSON}. The action check_valid_actions" +
		" lists the others; finish with {\"answer\": …} ends the task."})
}

// dialects are taken from the sources of the servers (AgentGym 3ef9235).
var dialects = map[string]dialect{
	"sciworld": object(dialect{
		greeting: "This is environment ScienceWorld.", closes: true, task: "task_description", score: "score",
		judge: "score", solved: 100, count: 4639,
		instruction: "Solve a science task in a simulated house. Answer with one command, such as: look around," +
			" look at X, go to X, open X, pick up X, move X to Y, pour X into Y, use X on Y, activate X, focus on X," +
			" read X, wait, inventory, task.",
	}),
	"alfworld": object(dialect{
		greeting: "This is environment AlfWorld.", index: "game", also: map[string]any{"world_type": "Text"},
		actions: "available_actions", solved: 1, count: 2620, splits: func() numbered.Splits {
			return numbered.Splits{Train: numbered.Range(0, 2419), Test: numbered.Range(2420, 2619)}
		},
		instruction: "Do a chore in a household. Answer with one of the available actions.",
	}),
	"babyai": object(dialect{
		greeting: "This is environment BabyAI.", closes: true, score: "score", solved: 0.5,
		instruction: "Reach a goal in a world of rooms. Answer with one of the available actions.",
	}),
	"textcraft": object(dialect{
		greeting: "This is environment TextCraft.", closes: true, solved: 1,
		instruction: "Craft the item that is the goal. Answer with one command: get N ITEM," +
			" craft N ITEM using N ITEM, N ITEM, or inventory.",
	}),
	"maze": object(dialect{
		greeting: "This is environment LMRL-Gym.", prefix: "/maze", index: "game", count: 26,
		instruction: "Find the goal in a maze. Answer with one move: move left, move right, move up or move down.",
	}),
	"wordle": object(dialect{
		greeting: "This is environment LMRL-Gym.", prefix: "/wordle", index: "seed", solved: 1,
		instruction: "Guess a word of five letters in six attempts. Answer with the letters, spaces between them.",
	}),
	"webshop": idx(dialect{
		index: "session_id", text: "state",
		instruction: "Buy what the instruction asks for. Answer with one action: search[words]" +
			" or click[something on the page].",
	}),
	"searchqa": idx(dialect{
		create: map[string]any{"id": 0}, closes: true, count: 221328, splits: func() numbered.Splits {
			return numbered.Splits{Train: numbered.Range(51713, 221327), Test: numbered.Range(0, 51712)}
		},
		instruction: "Answer a question. Search with <search>words</search>," +
			" and give the answer with <answer>words</answer>.",
	}),
	"sqlgym": idx(dialect{
		index: "item_id", text: "state", count: 10962, splits: func() numbered.Splits {
			return numbered.Splits{Train: numbered.Range(0, 9427), Test: numbered.Range(9428, 10961)}
		},
		instruction: "Answer a question about a database. Answer with one SQL statement in a block ```sql … ```.",
	}),
	"academia": tool("Answer a question about papers and their authors."),
	"movie":    tool("Answer a question about films."),
	"sheet":    tool("Edit a spreadsheet."),
	"todo":     tool("Keep a list of projects and tasks."),
	"weather":  tool("Answer a question about the weather."),
}

// Dialects lists the names of the dialects in alphabetical order.
func Dialects() []string { return slices.Sorted(maps.Keys(dialects)) }

// greeters lists the dialects with a greeting.
func greeters(greeting string) []string {
	var names []string
	for _, name := range Dialects() {
		if dialects[name].greeting == greeting {
			names = append(names, fmt.Sprintf("%q", name))
		}
	}
	return names
}

// lookup finds a dialect and its splits.
func lookup(name string, s numbered.Splits) (dialect, numbered.Splits, error) {
	d, ok := dialects[name]
	if !ok {
		return d, s, fmt.Errorf("unknown dialect %q\n  hint: one of %s", name, strings.Join(Dialects(), ", "))
	}
	if len(s.Train) == 0 && len(s.Test) == 0 && d.splits != nil {
		all := d.splits()
		s.Train, s.Test = all.Train, all.Test
	}
	for _, set := range []numbered.Set{s.Train, s.Eval, s.Test} {
		for _, n := range set {
			if d.count > 0 && n >= d.count {
				return d, s, fmt.Errorf("task %d does not exist\n  hint: %s has the tasks 0 to %d", n, name, d.count-1)
			}
		}
	}
	return d, s, nil
}
