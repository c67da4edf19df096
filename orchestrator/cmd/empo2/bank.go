package main

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"os"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// embedders are the memory's embedders by their name in memory.embedder. If a
// server needs an API key, set EMPO2_EMBEDDER_KEY.
var embedders = map[string]func(context.Context, config.Memory) (memory.Embedder, error){
	"ngram": func(context.Context, config.Memory) (memory.Embedder, error) { return embed.NGram{}, nil },
	"openai": func(ctx context.Context, m config.Memory) (memory.Embedder, error) {
		return embed.OpenOpenAI(ctx, embeddingServer(m))
	},
	"ollama": func(ctx context.Context, m config.Memory) (memory.Embedder, error) {
		return embed.OpenOllama(ctx, embeddingServer(m))
	},
}

func embeddingServer(m config.Memory) embed.Server {
	return embed.Server{URL: m.URL, Model: m.Model, APIKey: os.Getenv("EMPO2_EMBEDDER_KEY")}
}

// openStoredMemory opens the memory of a run that is open for reading. Call done
// after the last recall.
func openStoredMemory(ctx context.Context, db *sql.DB, c config.Config) (b *memory.Bank, done func() error, err error) {
	embedder, err := embedders[c.Memory.Embedder](ctx, c.Memory)
	if err != nil {
		return nil, nil, err
	}
	done = func() error { return nil }
	if server, ok := embedder.(io.Closer); ok {
		done = server.Close
	}
	if b, err = memory.OpenBank(ctx, db, memoryConfig(c, embedder)); err == nil {
		err = b.CheckEmbedder(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return b, done, nil
}

// openMemory opens the bank in the run's database.
func (r *run) openMemory(ctx context.Context, c config.Config) (*memory.Bank, error) {
	defer watchdog.Begin(ctx, "memory", "open with embedder "+c.Memory.Embedder, 0)()
	embedder, err := embedders[c.Memory.Embedder](ctx, c.Memory)
	if err != nil {
		return nil, err
	}
	if server, ok := embedder.(io.Closer); ok {
		r.closes = append(r.closes, server.Close)
	}
	if err := memory.Migrate(ctx, r.ledger.DB()); err != nil {
		return nil, err
	}
	return memory.OpenBank(ctx, r.ledger.DB(), memoryConfig(c, embedder))
}
