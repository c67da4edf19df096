package orchestrator

import (
	"fmt"
	"testing"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// BenchmarkTurn measures what a turn costs by its parts, in the demonstration: its prompt is rendered and tokenised
// (which the cache of tokens spares for texts that it knows), and the memory recalls tips. An episode, of five turns
// here, is packed and committed once, and once more with its tip. What HTTP and the decoding of an answer cost is in
// BenchmarkClient of package vllm.
func BenchmarkTurn(b *testing.B) {
	w := newBenchRun(b, "empo2", 32, 0)
	family, reply, err := corridors(w.config)
	if err != nil {
		b.Fatal(err)
	}
	tasks, err := family.Tasks(envs.Train)
	if err != nil {
		b.Fatal(err)
	}
	backend := newQuick(reply, 0)
	l, _ := w.open(b, family, backend)
	defer l.Ledger.Close()
	base, err := backend.Publish(b.Context(), sampler.Adapter{})
	if err != nil {
		b.Fatal(err)
	}
	t := l.Driver.Run(b.Context(), rollout.EpisodeSpec{Task: tasks[0], Step: 1, Seed: 5, Policy: base, Temperature: 1,
		MaxTurns: 30, MaxTokens: 32})
	if t.Failed() {
		b.Fatal(t.Err)
	}
	turn := t.Turns[len(t.Turns)-1]
	tips := []prompt.Tip{{ID: 1, Text: "At iron pull jade."}, {ID: 2, Text: "At bone avoid cork."}}
	p := prompt.Default()
	message := p.Turn(turn.Observation, tips)
	history := t.RowsWithTips[0].Tokens
	b.Run("prompt", func(b *testing.B) {
		measure(b, func(int) { p.Turn(turn.Observation, tips) })
	})
	for name, tokenizer := range map[string]chat.Tokenizer{"tokens": coarse{backend.tokenizer},
		"tokens-cached": chat.CachedTokenizer(coarse{backend.tokenizer}, 1024)} {
		template, err := chat.NewTemplate(b.Context(), chat.TemplateChatML, tokenizer, backend.tokenizer, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			measure(b, func(int) {
				if _, err := template.Extend(b.Context(), history, message); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
	b.Run("recall", func(b *testing.B) { benchTurnRecall(b, l, turn.Observation.State) })
	b.Run("episode-pack", func(b *testing.B) {
		measure(b, func(int) {
			record, err := storedEpisode(t, OnPolicy)
			if err == nil {
				_, err = record.Size()
			}
			if err != nil {
				b.Fatal(err)
			}
		})
	})
	episode := 0
	b.Run("episode-commit", func(b *testing.B) {
		record, err := storedEpisode(t, OnPolicy)
		if err != nil {
			b.Fatal(err)
		}
		measure(b, func(int) {
			episode++
			record.Step, record.Episode = 2, episode
			if err := l.Ledger.AddEpisode(b.Context(), record); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// benchTurnRecall recalls among 1,000 tips of 200 states that were not asked for before.
func benchTurnRecall(b *testing.B, l *Loop, state string) {
	c := memory.DefaultConfig(embed.NGram{})
	bank, err := memory.OpenBank(b.Context(), l.Ledger.DB(), c)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		err := bank.Learn(b.Context(), memory.Experience{Scope: "bench", States: []string{fmt.Sprint(state, " ", i%200)},
			Tip: memory.Tip{Text: fmt.Sprint("tip ", i), Score: float64(i % 7)}})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := commitMemory(b, l.Ledger, bank); err != nil {
		b.Fatal(err)
	}
	measure(b, func(i int) {
		if _, err := bank.Recall(b.Context(), memory.State{Scope: "bench", Text: fmt.Sprint(state, i)}); err != nil {
			b.Fatal(err)
		}
	})
}

func commitMemory(b *testing.B, led *ledger.Ledger, bank memory.Strategy) error {
	tx, err := led.DB().BeginTx(b.Context(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after Commit
	done, err := bank.Commit(b.Context(), tx)
	if err == nil {
		err = tx.Commit()
	}
	done(err == nil)
	return err
}

// measure calls f b.N times and reports the processor time, which means something on a busy machine too.
func measure(b *testing.B, f func(i int)) {
	cpu := cpuTime(b)
	b.ResetTimer()
	for i := range b.N {
		f(i)
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
}

// newQuick returns a backend whose calls sleep up to a time.
func newQuick(reply func(sampler.Request) string, sleep time.Duration) *quick {
	return &quick{tokenizer: samplertest.NewTokenizer(), reply: reply, sleep: sleep,
		slept: map[string][]time.Duration{}, cached: map[string]sampler.Completion{}}
}
