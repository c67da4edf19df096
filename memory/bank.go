package memory

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Novelty says what [Recollection].Similar counts.
type Novelty string

const (
	// NoveltyTips counts the stored entries (a state and the tip of an episode
	// that visited it) whose state is similar, as in the reference.
	NoveltyTips Novelty = "tips"
	// NoveltyStates counts similar visits of states, whether their episodes
	// left a tip or not, as in the paper's text. Visits are recorded only
	// while this is chosen.
	NoveltyStates Novelty = "states"
)

// Config sets up a [Bank]. [DefaultConfig] has the reference's values.
type Config struct {
	Embedder Embedder
	// K is the number of tips of a recollection, at most. At least 1.
	K int
	// Threshold is the cosine above which a stored state is similar, in
	// [-1, 1].
	Threshold float64
	// Capacity bounds a scope: at most so many entries, the oldest are
	// dropped; with NoveltyStates also so many visited states besides those
	// that entries need. At least 1.
	Capacity int
	Novelty  Novelty
	// NoveltyCap bounds Similar; 0 does not. The reference counts what it has
	// retrieved, which is at most 10 entries, so that its bonus never falls
	// below 1/11; NoveltyCap = 10 is that. Without a cap the bonus of a state
	// that is visited all the time vanishes, which is what the formula says.
	NoveltyCap int
	// MaxScopes is the number of scopes held in RAM (each up to Capacity
	// vectors); others are read back when they are needed. At least 1.
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
	case c.Novelty != NoveltyTips && c.Novelty != NoveltyStates:
		return fmt.Errorf("novelty = %q, want %q or %q", c.Novelty, NoveltyTips, NoveltyStates)
	case c.NoveltyCap < 0:
		return fmt.Errorf("novelty cap = %d, want 0 (none) or more", c.NoveltyCap)
	case c.MaxScopes < 1:
		return fmt.Errorf("max scopes = %d, want at least 1", c.MaxScopes)
	}
	return nil
}

// A Bank is the memory of the paper. The database is the truth: Commit writes
// to it, and what is in RAM is a cache of scopes, read on first use and
// forgotten when a commit has touched them. A restart therefore loses nothing
// but what was learnt and not committed.
//
// Similar entries are ranked by score, then by similarity, then by recency;
// of equal sentences only the best ranked is shown. An entry whose state and
// sentence are both known replaces its older twin: the sentence keeps one
// place, with the score and the provenance of its latest episode.
type Bank struct {
	db     *sql.DB
	config Config

	mu         sync.Mutex
	slots      map[string]*slot
	uses       int64 // clock of slot.used
	buffer     []lesson
	committing bool
}

var _ Strategy = (*Bank)(nil)

// OpenBank opens the bank in db, whose tables [Migrate] has created. A bank
// belongs to the embedder that wrote it, as vectors of different embedders
// say nothing about each other. The Bank needs no closing; db stays the
// caller's.
func OpenBank(ctx context.Context, db *sql.DB, c Config) (*Bank, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	if err := checkEmbedder(ctx, db, c.Embedder.Name()); err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	return &Bank{db: db, config: c, slots: make(map[string]*slot)}, nil
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
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
		return fmt.Errorf("read the embedder's name (the tables of the memory must exist): %w", err)
	case stored != name:
		return fmt.Errorf("the bank was written with embedder %q, the configuration names %q: "+
			"set the embedder back, or move the tips with `empo2 memory export` from the one and "+
			"`empo2 memory import` into a new run of the other, which embeds them again", stored, name)
	}
	return nil
}

// Recall implements [Strategy]. Similar counts all similar entries (or
// visits), not only the tips that are returned, up to [Config].NoveltyCap.
func (b *Bank) Recall(ctx context.Context, s State) (Recollection, error) {
	vectors, err := b.embed(ctx, s.Text)
	if err != nil {
		return Recollection{}, fmt.Errorf("recall in scope %q: %w", s.Scope, err)
	}
	index, err := b.index(ctx, s.Scope)
	if err != nil {
		return Recollection{}, fmt.Errorf("recall in scope %q: %w", s.Scope, err)
	}
	near, err := index.near(vectors[0], b.config.Threshold)
	if err != nil {
		return Recollection{}, fmt.Errorf("recall in scope %q: %w", s.Scope, err)
	}
	return Recollection{
		Tips:    best(near, b.config.K),
		Similar: b.count(near),
	}, nil
}

func (b *Bank) count(near []match) int {
	n := 0
	for _, m := range near {
		if b.config.Novelty == NoveltyStates {
			n += m.row.visits
		} else {
			n += len(m.row.entries)
		}
	}
	if limit := b.config.NoveltyCap; limit > 0 {
		n = min(n, limit)
	}
	return n
}

// best ranks the entries of similar states and returns the first k distinct
// sentences.
func best(near []match, k int) []Tip {
	type candidate struct {
		entry
		cosine float32
	}
	var ranked []candidate
	for _, m := range near {
		for _, e := range m.row.entries {
			ranked = append(ranked, candidate{e, m.cosine})
		}
	}
	slices.SortFunc(ranked, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(b.tip.Score, a.tip.Score),
			cmp.Compare(b.cosine, a.cosine),
			cmp.Compare(b.id, a.id),
		)
	})
	var tips []Tip
	seen := make(map[string]bool, k)
	for _, c := range ranked {
		if len(tips) == k {
			break
		}
		if !seen[c.tip.Text] {
			seen[c.tip.Text] = true
			tips = append(tips, *c.tip)
		}
	}
	return tips
}
