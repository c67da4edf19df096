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

// An openedMemory is a memory, and the embedder that it compares states with; nil: it
// compares none.
type openedMemory struct {
	memory.Strategy
	embedder memory.Embedder
}

// openMemory opens the memory that c names in db, and checks its embedder.
func openMemory(ctx context.Context, db *sql.DB, c config.Config) (m openedMemory, err error) {
	if c.Embeds() {
		if m.embedder, err = embedders[c.Memory.Embedder](ctx, c.Memory); err != nil {
			return m, err
		}
	}
	m.Strategy, err = memories[c.Memory.Strategy](ctx, memoryRequest{db: db, config: c, embedder: m.embedder})
	if bank, ok := m.Strategy.(*memory.Bank); ok && err == nil {
		err = bank.CheckEmbedder(ctx)
	}
	if err != nil {
		return m, errors.Join(err, m.Close())
	}
	return m, nil
}

// Close ends the connections to the embedder and to a memory elsewhere. The database is
// the caller's.
func (m openedMemory) Close() error {
	var errs []error
	for _, part := range []any{m.embedder, m.Strategy} {
		if server, ok := part.(io.Closer); ok {
			errs = append(errs, server.Close())
		}
	}
	return errors.Join(errs...)
}

// openMemory opens the memory in the run's database, which it prepares.
func (r *run) openMemory(ctx context.Context, c config.Config) (openedMemory, error) {
	defer watchdog.Begin(ctx, "memory", "open "+c.Memory.Strategy+" with embedder "+c.Memory.Embedder, 0)()
	if err := memory.Migrate(ctx, r.ledger.DB()); err != nil {
		return openedMemory{}, err
	}
	m, err := openMemory(ctx, r.ledger.DB(), c)
	if err == nil {
		r.closes = append(r.closes, m.Close)
	}
	return m, err
}
