package memory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Novelty says which things [Recollection].Similar counts.
type Novelty string

const (
	// NoveltyTips counts the entries whose state is similar, as the reference
	// does. An entry is a state and the tip of an episode that visited it.
	NoveltyTips Novelty = "tips"
	// NoveltyStates counts the visits of similar states, also of episodes
	// without a tip, as the text of the paper says. Visits are stored only
	// with this setting and the next.
	NoveltyStates Novelty = "states"
	// NoveltyDistinct counts the similar states that were visited, each once, however
	// often it was visited.
	NoveltyDistinct Novelty = "distinct"
)

// visits reports whether visits of states are stored.
func (n Novelty) visits() bool { return n == NoveltyStates || n == NoveltyDistinct }

// Config sets up a [Bank]. [DefaultConfig] has the reference's values.
type Config struct {
	Embedder Embedder
	// K is the largest number of tips in a recollection, 1 or more.
	K int
	// Threshold is the cosine above which a stored state is similar, in
	// [-1, 1].
	Threshold float64
	// Capacity is the largest number of entries in a scope, 1 or more. The
	// oldest entries are deleted. If visits are stored, it is also the largest
	// number of visited states that have no entry.
	Capacity int
	Novelty  Novelty
	// NoveltyCap is the upper limit of Similar; 0: no limit. The reference
	// counts the retrieved entries, which are 10 or fewer, so its bonus never
	// falls below 1/11. NoveltyCap = 10 does the same. Without a cap the bonus
	// of a state that is visited often goes to zero, as in the formula.
	NoveltyCap int
	// Explore is ε: the probability that a place among the recalled tips goes to a
	// random similar tip, instead of the best one that is left. 0 recalls the best, as
	// the reference does, so that a tip that was once ranked low is not tried again.
	Explore float64
	// MaxScopes is the number of scopes in RAM, 1 or more. Each has up to
	// Capacity vectors. Other scopes are read from the database when needed.
	MaxScopes int
}

// DefaultConfig returns the values of the reference (EMPO², appendix), with
// an uncapped novelty count.
func DefaultConfig(e Embedder) Config {
	return Config{
		Embedder:  e,
		K:         10,
		Threshold: 0.5,
		Capacity:  1000,
		Novelty:   NoveltyTips,
		MaxScopes: 256,
	}
}

func (c Config) validate() error {
	switch {
	case c.Embedder == nil:
		return errors.New("embedder is missing")
	case c.K < 1:
		return fmt.Errorf("k = %d, want at least 1", c.K)
	case !(c.Threshold >= -1 && c.Threshold <= 1):
		return fmt.Errorf("threshold = %v, want -1 to 1", c.Threshold)
	case c.Capacity < 1:
		return fmt.Errorf("capacity = %d, want at least 1", c.Capacity)
	case c.Novelty != NoveltyTips && !c.Novelty.visits():
		return fmt.Errorf("novelty = %q, want %q, %q or %q", c.Novelty, NoveltyTips, NoveltyStates, NoveltyDistinct)
	case c.NoveltyCap < 0:
		return fmt.Errorf("novelty cap = %d, want 0 (none) or more", c.NoveltyCap)
	case !(c.Explore >= 0 && c.Explore <= 1):
		return fmt.Errorf("explore = %v, want 0 to 1", c.Explore)
	case c.MaxScopes < 1:
		return fmt.Errorf("max scopes = %d, want at least 1", c.MaxScopes)
	}
	return nil
}

// A Bank is the memory of the paper. Commit writes to the database. The scopes
// in RAM are a cache: a scope is read on first use and dropped when a commit
// changes it. A restart loses only the experiences that were not committed.
//
// Similar entries are ranked by score, then by similarity, then by recency. Of
// equal texts only the best ranked is recalled. A new entry replaces an older
// one with the same state and the same text: it has the score and the provenance
// of the latest episode.
type Bank struct {
	db     *sql.DB
	config Config

	mu         sync.Mutex
	scopes     *simplelru.LRU[string, *cachedScope] // the scopes in RAM
	buffer     []lesson                             // learnt, not committed
	committing bool
}

var _ Strategy = (*Bank)(nil)

// OpenBank opens the bank in db, whose tables [Migrate] has created. A bank can
// be used only with the embedder that wrote it, because vectors of different
// embedders cannot be compared. The Bank needs no closing. The caller closes db.
func OpenBank(ctx context.Context, db *sql.DB, c Config) (*Bank, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	if err := CheckStrategy(ctx, db, TipsStrategy); err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	if err := checkEmbedder(ctx, db, c.Embedder.Name()); err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	scopes, err := simplelru.NewLRU[string, *cachedScope](c.MaxScopes, nil)
	if err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	return &Bank{db: db, config: c, scopes: scopes}, nil
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// CheckStrategy returns an error if another strategy has written the memory.
func CheckStrategy(ctx context.Context, db Database, want string) error {
	name, err := StrategyName(ctx, db)
	if err != nil || name == "" || name == want {
		return err
	}
	return fmt.Errorf("the memory was written by strategy %q, the configuration names %q\n"+
		"  hint: set memory.strategy back, or begin a new run (--set run.name=…)", name, want)
}

// checkEmbedder compares the embedder's name with the one in the bank. An
// empty bank has none yet.
func checkEmbedder(ctx context.Context, db querier, name string) error {
	var stored string
	err := db.QueryRowContext(ctx, `SELECT value FROM memory_meta WHERE key = 'embedder'`).Scan(&stored)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("read the embedder's name: %w\n  hint: the tables of the memory must exist", err)
	case stored != name:
		return fmt.Errorf("the bank was written with embedder %q, the configuration names %q: "+
			"set the embedder back, or export the tips with `empo2 memory export` and import them with "+
			"`empo2 memory import` into a new run, which embeds them again", stored, name)
	}
	return nil
}

// Recall implements [Strategy]. Similar counts all similar entries (or visits, or states),
// not only those of the returned tips, up to [Config].NoveltyCap.
func (b *Bank) Recall(ctx context.Context, s State) (Recollection, error) {
	return b.recall(ctx, s, func() (*index, error) { return b.index(ctx, s.Scope) })
}

// recall answers from the scope that load returns.
func (b *Bank) recall(ctx context.Context, s State, load func() (*index, error)) (Recollection, error) {
	index, err := load()
	if err != nil {
		return Recollection{}, fmt.Errorf("recall in scope %q: %w", s.Scope, err)
	}
	if r, ok := index.recent.get(s.Text); ok {
		return b.explore(r, s.Seed), nil
	}
	vectors, err := Embed(ctx, b.config.Embedder, s.Text)
	if err != nil {
		return Recollection{}, fmt.Errorf("recall in scope %q: %w", s.Scope, err)
	}
	similar, err := index.similar(vectors[0], b.config.Threshold)
	if err != nil {
		return Recollection{}, fmt.Errorf("recall in scope %q: %w", s.Scope, err)
	}
	r := Recollection{Tips: best(similar, b.ranked(similar)), Similar: b.count(similar)}
	index.recent.add(s.Text, r)
	return b.explore(r, s.Seed), nil
}

// count returns the number of similar states, of their entries, or of their visits.
func (b *Bank) count(similar []match) int {
	n := 0
	for _, m := range similar {
		switch b.config.Novelty {
		case NoveltyStates:
			n += m.row.visits
		case NoveltyDistinct:
			n += min(m.row.visits, 1)
		default:
			n += len(m.row.entries)
		}
	}
	if limit := b.config.NoveltyCap; limit > 0 {
		n = min(n, limit)
	}
	return n
}
