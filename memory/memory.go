// Package memory keeps the tips that the policy wrote for itself and finds
// the ones that fit a state.
//
// A [Strategy] decides what is shown and what is kept; [Bank] is the one of
// the paper: one list of tips per task variation, cosine similarity over a
// threshold, best scores first. An [Embedder] turns texts into unit vectors.
package memory

import (
	"context"
	"database/sql"
)

// Tip is one sentence that the policy wrote after an episode.
type Tip struct {
	ID    int64   `json:"id"` // unique within the bank
	Scope string  `json:"scope"`
	Text  string  `json:"text"`
	Score float64 `json:"score"` // environment return of the episode it was written after
	// Where it comes from: the step, group and episode it was written after
	// and the version of the policy that wrote it.
	Step    int64 `json:"step"`
	Group   int   `json:"group"`
	Episode int   `json:"episode"`
	Version int   `json:"version"`
}

// State is what the memory is asked about.
type State struct {
	Scope string // Task.Scope
	Text  string // Observation.State
}

// Recollection is what the memory knows about a state.
type Recollection struct {
	// Tips are the best distinct tips, best first, at most the strategy's k.
	Tips []Tip
	// Similar counts the stored states or tips (novelty.source) whose cosine
	// to the state exceeds the threshold. The intrinsic reward is
	// 1/(1+Similar).
	Similar int
}

// Experience is one finished episode as the memory learns it.
type Experience struct {
	Scope string
	// States are the states that were visited, in order; each becomes a key
	// of the tip (defect 8 of the reference: not only the last one).
	States []string
	// Tip is the sentence without ID; an empty Text stores no tip, only the
	// visit of the states.
	Tip Tip
}

// A Strategy decides what the policy is shown and what is kept. It is safe
// for concurrent use. What was learnt is visible to Recall at once after
// Commit has been called and its transaction committed, not before, so that
// all episodes of one step see the same memory whatever their order.
type Strategy interface {
	Recall(ctx context.Context, s State) (Recollection, error)
	// Learn buffers e until Commit.
	Learn(ctx context.Context, e Experience) error
	// Commit writes everything buffered with tx. The caller calls done(true)
	// after tx was committed, done(false) after it was rolled back: then the
	// buffer is dropped and nothing was learnt.
	Commit(ctx context.Context, tx *sql.Tx) (done func(committed bool), err error)
}

// An Embedder maps texts to unit vectors of one fixed dimension. It is safe
// for concurrent use.
type Embedder interface {
	Embed(ctx context.Context, texts ...string) ([][]float32, error)
	// Name identifies the embedder and its dimension, for example
	// "ngram-384"; vectors of different names are never compared.
	Name() string
}
