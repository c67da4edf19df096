// Package memory stores the tips that the policy writes after an episode, and
// recalls the tips that fit a state.
//
// A [Strategy] decides which tips are stored and which are recalled. [Bank] is
// the strategy of the paper (EMPO²): one list of tips per task variation, cosine
// similarity above a threshold, best scores first. An [Embedder] turns texts
// into unit vectors.
//
// Read this file first, then bank.go (recall), learn.go and write.go (how a tip
// is stored), and index.go (the cache in RAM).
package memory

import (
	"context"
	"database/sql"
)

// Tip is one sentence of advice that the policy wrote after an episode.
type Tip struct {
	ID    int64   `json:"id"` // unique within the bank
	Scope string  `json:"scope"`
	Text  string  `json:"text"`
	Score float64 `json:"score"` // environment return of the episode it was written after
	// The provenance: the step, group and episode that the tip was written
	// after, and the version of the policy that wrote it.
	Step    int64 `json:"step"`
	Group   int   `json:"group"`
	Episode int   `json:"episode"`
	Version int   `json:"version"`
}

// State is a query: recall the tips that fit this state.
type State struct {
	Scope string // Task.Scope
	Text  string // Observation.State
	// Seed is the seed of random choices, for a strategy that explores. The same
	// state with the same seed and the same memory has the same answer.
	Seed uint64
}

// Recollection is the answer to a query.
type Recollection struct {
	// Tips are the k best distinct tips, best first, where k is the strategy's
	// limit. There may be fewer. Their ids come back in [Turn].Shown.
	Tips []Tip
	// Similar counts the stored states or tips (novelty.source) whose cosine
	// to the state exceeds the threshold. The intrinsic reward is
	// 1/(1+Similar).
	Similar int
}

// Experience is one finished episode.
type Experience struct {
	Scope string
	// States are the visited states, in order. Each is a key of the tip. (The
	// reference implementation uses only the last state.)
	States []string
	// Turns are what was done in each of the States. Nil: unknown.
	Turns []Turn
	// Return is the sum of the environment's rewards.
	Return  float64
	Success bool // the environment reported success
	Memory  bool // the episode was played with memory
	// WithoutTips is the mean return of the episodes of the same group that were
	// shown no tip. Nil: the group has none. The difference of Return and
	// WithoutTips is an estimate of what the shown tips are worth.
	WithoutTips *float64
	// Tip has no ID yet. With an empty Text only the visits of the states are
	// stored.
	Tip Tip
}

// Turn is what an episode did in one state.
type Turn struct {
	Action string  // as the environment got it
	Reward float64 // of the environment
	// Shown are the ids of the tips that this turn added to the prompt.
	Shown []int64
}

// A Strategy decides which tips are stored and which are recalled. It is safe
// for concurrent use.
//
// Recall sees an experience only after the transaction of its Commit has been
// committed. So all episodes of one step see the same memory, in whatever order
// they finish.
//
// An episode is named by Step, Group and Episode of its Tip. An episode that is
// learnt again counts once. One without a Step is always new.
type Strategy interface {
	// Recall returns the tips that fit s.
	Recall(ctx context.Context, s State) (Recollection, error)
	// Learn buffers e until Commit.
	Learn(ctx context.Context, e Experience) error
	// Commit writes all buffered experiences with tx. The caller calls
	// done(true) after it has committed tx, and done(false) after it has
	// rolled tx back. After done(false) the buffered experiences are lost.
	Commit(ctx context.Context, tx *sql.Tx) (done func(committed bool), err error)
}

// A Candidate is an action that the policy may take.
type Candidate struct {
	Action string
	// Logprob is the policy's log-probability of the action in nats, up to a
	// constant that all candidates share.
	Logprob float64
}

// A Chooser is a Strategy that does not only advise: it takes part in the choice
// among the actions that the policy proposes.
type Chooser interface {
	Strategy
	// Choose returns the action to take: one of the candidates, or one that the
	// memory knows. candidates are distinct, and there is at least one.
	Choose(ctx context.Context, s State, candidates []Candidate) (action string, err error)
}

// An Embedder maps texts to unit vectors of one fixed dimension. It is safe
// for concurrent use.
type Embedder interface {
	// Embed returns one vector per text.
	Embed(ctx context.Context, texts ...string) ([][]float32, error)
	// Name identifies the embedder and its dimension, for example
	// "ngram-384". Vectors of different names are never compared.
	Name() string
}
