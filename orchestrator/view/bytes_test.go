package view

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// randomEpisode has turns of random words and ids, about tokens of them in all. Tips are
// chosen among 20 of the task.
func randomEpisode(rng *rand.Rand, at Place, turns, tokens int) rollout.Trajectory {
	words := strings.Fields("door lever stove water pot kitchen hall key north south open take pour the a into " +
		"from you see")
	task := fmt.Sprint("task-", at.Step%16)
	e := rollout.Trajectory{Task: envs.Task{ID: task, Scope: task}, Step: at.Step, Group: at.Group, Episode: at.Episode,
		Stop: rollout.StopTerminated, EnvReturn: float64(rng.IntN(2)), Tip: fmt.Sprint("tip ", rng.IntN(20))}
	var row rollout.Row
	for range turns {
		turn := rollout.Turn{Action: "open door", Finish: sampler.FinishStop}
		var text []string
		for i := range tokens / turns {
			id, sampled := int32(rng.IntN(30000)), i*5 > tokens/turns*4 // a fifth is sampled
			row.Tokens, row.LossMask = append(row.Tokens, id), append(row.LossMask, sampled)
			logprob := float32(0)
			if sampled {
				logprob = -rng.Float32()
				turn.IDs, turn.Logprobs = append(turn.IDs, id), append(turn.Logprobs, logprob)
			}
			row.Logprobs = append(row.Logprobs, logprob)
			text = append(text, words[rng.IntN(len(words))])
		}
		turn.Observation.State = strings.Join(text, " ")
		turn.Prompt = []chat.Message{chat.NewMessage(chat.RoleUser, turn.Observation.State)}
		turn.Tips = []prompt.Tip{{ID: 1, Text: fmt.Sprint("tip ", rng.IntN(20)), Author: "1/0/0"}}
		e.Turns = append(e.Turns, turn)
	}
	e.RowsWithTips, e.RowsWithoutTips = []rollout.Row{row}, []rollout.Row{row}
	return e
}

func packed(b *testing.B, e rollout.Trajectory) ledger.Episode {
	b.Helper()
	p, err := rollout.Pack(e)
	if err != nil {
		b.Fatal(err)
	}
	out := ledger.Episode{Step: e.Step, Group: e.Group, Episode: e.Episode, Task: e.Task.ID, Mode: "off_policy",
		Stop: string(e.Stop), EnvReturn: e.EnvReturn, Trajectory: p.JSON, Tokens: p.Tokens, Logprobs: p.Logprobs}
	if out.Facts, err = orchestrator.FactsOf(out); err != nil {
		b.Fatal(err)
	}
	return out
}

// BenchmarkEpisodeBytes measures what an episode takes in run.db, and as JSON, which is
// how an earlier version stored it. Words and ids are random, so that they compress less
// than those of real episodes.
func BenchmarkEpisodeBytes(b *testing.B) {
	for _, size := range []struct{ turns, tokens int }{{3, 110}, {30, 15_000}} {
		b.Run(fmt.Sprintf("%d-turns-%d-tokens", size.turns, size.tokens), func(b *testing.B) {
			e := randomEpisode(rand.New(rand.NewPCG(1, 2)), Place{1, 0, 0}, size.turns, size.tokens)
			text, err := json.Marshal(e)
			if err != nil {
				b.Fatal(err)
			}
			stored := 0
			for b.Loop() {
				if stored, err = packed(b, e).Size(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(text)), "JSON-bytes")
			b.ReportMetric(float64(stored), "bytes")
		})
	}
}
