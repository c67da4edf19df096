package main

import (
	"context"
	"database/sql"
	"os"

	"github.com/empo2/empo2/envs/vault"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/strategies"
	"github.com/empo2/empo2/orchestrator/config"
)

// A memoryRequest is what a strategy is opened with.
type memoryRequest struct {
	db       *sql.DB
	config   config.Config
	embedder memory.Embedder // nil: config.Embeds is false
}

// memories open the strategies by their name in memory.strategy.
var memories = map[string]func(context.Context, memoryRequest) (memory.Strategy, error){
	memory.TipsStrategy: func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		return memory.OpenBank(ctx, r.db, memoryConfig(r.config, r.embedder))
	},
	"rememberer": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		m, own := r.config.Memory, r.config.Memory.Rememberer
		return strategies.OpenRememberer(ctx, r.db, strategies.RemembererConfig{
			Embedder: r.embedder, Phrase: phraseOf(r.config),
			K: m.K, Threshold: m.Threshold, Capacity: m.Capacity, Actions: own.Actions, Discount: own.Discount,
			Horizon: own.Horizon, Rate: own.Rate, Baseline: own.Baseline})
	},
	"jitrl": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		own := r.config.Memory.JitRL
		return strategies.OpenJitRL(ctx, r.db, strategies.JitRLConfig{Neighbours: own.Neighbours, Threshold: own.Threshold,
			Capacity: r.config.Memory.Capacity, Discount: own.Discount, Beta: own.Beta, Explore: own.Explore,
			Bonus: own.Bonus})
	},
	"memento": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		m, own := r.config.Memory, r.config.Memory.Memento
		return strategies.OpenMemento(ctx, r.db, strategies.MementoConfig{Embedder: r.embedder, Phrase: phraseOf(r.config),
			K: m.K, Candidates: own.Candidates, Threshold: m.Threshold, Capacity: m.Capacity, Temperature: own.Temperature,
			Rate: own.Rate, Discount: own.Discount})
	},
	"umem": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		m, own := r.config.Memory, r.config.Memory.UMem
		return strategies.OpenUMem(ctx, r.db, strategies.UMemConfig{Embedder: r.embedder, K: m.K, Threshold: m.Threshold,
			Capacity: m.Capacity, Lambda: own.Weight, Noise: own.Noise, Floor: own.Floor, Greedy: own.Greedy})
	},
	"credit": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		m := r.config.Memory
		return strategies.OpenCredit(ctx, r.db, strategies.CreditConfig{Embedder: r.embedder, K: m.K, Threshold: m.Threshold,
			Capacity: m.Capacity})
	},
	"memsifter": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		m, own := r.config.Memory, r.config.Memory.MemSifter
		return strategies.OpenMemSifter(ctx, r.db, strategies.MemSifterConfig{Embedder: r.embedder, K: m.K,
			Prefilter: own.Prefilter, Threshold: m.Threshold, Capacity: m.Capacity, Walks: own.Walks, Prior: own.Prior})
	},
	"gated": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		m, own := r.config.Memory, r.config.Memory.Gated
		return strategies.OpenGated(ctx, r.db, strategies.GatedConfig{Embedder: r.embedder, K: m.K, Threshold: m.Threshold,
			Capacity: m.Capacity, Powers: own.Powers, Hidden: own.Hidden, Rate: own.Rate, Epochs: own.Epochs,
			Margin: strategies.Margin(own.Margin), Decay: own.Decay})
	},
	"reflexion": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		m := r.config.Memory
		return strategies.OpenReflexion(ctx, r.db,
			strategies.ReflexionConfig{Window: m.Reflexion.Window, Capacity: m.Capacity})
	},
	"http": func(ctx context.Context, r memoryRequest) (memory.Strategy, error) {
		m := r.config.Memory
		return strategies.OpenHTTP(ctx, r.db, strategies.HTTPConfig{URL: m.HTTP.URL, Key: os.Getenv("EMPO2_MEMORY_KEY"),
			Timeout: seconds(m.HTTP.TimeoutSeconds), K: m.K})
	},
}

// phrases are the phrases of environments whose tips have a form of their own.
var phrases = map[string]func(state string, good, bad []string) string{"vault": vault.Advice}

// phraseOf returns how a strategy tells which actions were good in a state.
func phraseOf(c config.Config) strategies.Phrase {
	phrase := phrases[c.Env.Name]
	if phrase == nil {
		return strategies.Plain
	}
	texts := func(actions []strategies.Action) (out []string) {
		for _, a := range actions {
			out = append(out, a.Text)
		}
		return out
	}
	return func(state string, good, bad []strategies.Action) string {
		return phrase(state, texts(good), texts(bad))
	}
}

// errNotTips refuses a command that is about stored tips.
func errNotTips(c config.Config) error {
	if c.Memory.Strategy == memory.TipsStrategy {
		return nil
	}
	return &config.Error{Place: "memory.strategy",
		Msg:  c.Memory.Strategy + " keeps no tips that can be exported or changed",
		Hint: `only runs with memory.strategy = "tips" can`}
}

// errElsewhere refuses to go back to an earlier memory if it is in another process.
func errElsewhere(c config.Config, what string) error {
	if c.Memory.Strategy != "http" || !c.HasMemory() {
		return nil
	}
	return &config.Error{Place: "memory.strategy",
		Msg:  what + " needs the memory of an earlier step, which another process has",
		Hint: "begin a new run (--set run.name=…) with a memory that is empty, or as you want it"}
}
