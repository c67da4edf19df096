// Package webshop is a native engine of WebShop (Yao et al., 2022): a shop with real
// products. The policy searches, clicks and buys. The reward says how well the bought
// product fits an instruction.
//
// Pages, clickables, search results, prices, goals and rewards are equal to those of
// the original Python program with Lucene. Tests with recordings of the original check
// this. Neither Python nor Lucene is needed. The user provides the product data.
//
// Read session.go first: it is the state machine of the shop. pages.go has the pages,
// goals.go and reward.go the goals and rewards, and search.go, index.go, analyzer.go
// and tokenizer.go the search engine. py*.go reproduce functions of Python.
package webshop

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/empo2/empo2/envs"
)

// A Family opens sessions in one shop. It implements [envs.Family].
type Family struct {
	config Config
	info   Info
	shop   *shop
	goals  *goalSet

	cumulativeOnce sync.Once
	cumulative     []float64
}

var (
	_ envs.Family   = (*Family)(nil)
	_ envs.Recorded = (*Family)(nil)
)

// Info has the facts that the scores of a family depend on.
type Info struct {
	Files    []FileInfo `json:"files"`
	Products int        `json:"products"`
	Goals    int        `json:"goals"`
	GoalKind GoalKind   `json:"goal_kind"`
	Mode     Mode       `json:"mode"`
	SeedMode SeedMode   `json:"seed_mode"`
	Seed     uint64     `json:"seed"`
	// Nouns is "listed" if the nouns of the titles are in a file. If not, it is
	// "guessed", and some rewards differ from the original.
	Nouns string `json:"nouns"`
}

// Info describes the family. The caller must not change its Files.
func (f *Family) Info() Info { return f.info }

// Record implements [envs.Recorded].
func (f *Family) Record() any { return f.info }

// Name implements [envs.Family].
func (f *Family) Name() string { return "webshop" }

// Close implements [envs.Family].
func (f *Family) Close() error { return f.shop.catalogue.close() }

func (c Config) shuffleSeed() uint64 {
	if c.SeedMode == Princeton {
		return 233
	}
	return c.Seed
}

func (c Config) pinned(path string) string {
	return strings.ToLower(c.Checksums[filepath.Base(path)])
}

// Tasks implements [envs.Family]. It lists the goals in the original's order. If there
// are too few goals for the original's splits, a quarter of them is the split test, and
// the others are the splits train and eval.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	first, last, err := f.bounds(split)
	if err != nil {
		return nil, err
	}
	if n := f.config.MaxTasks; n > 0 {
		last = min(last, first+n)
	}
	tasks := make([]envs.Task, 0, last-first)
	for i := first; i < last; i++ {
		w, err := f.goals.want(i)
		if err != nil {
			return nil, err
		}
		id := f.taskID(i)
		tasks = append(tasks, envs.Task{ID: id, Scope: id, Seed: f.config.Seed, Instruction: w.instruction})
	}
	return tasks, nil
}

// bounds returns the range of the goals of a split, from first to last-1.
func (f *Family) bounds(split envs.Split) (first, last int, err error) {
	n := len(f.goals.goals)
	test, eval := 500, 500
	if f.config.SeedMode == Princeton {
		eval = 1500
	}
	few := n <= eval
	if few {
		test = n / 4
	}
	switch split {
	case envs.Test:
		return 0, test, nil
	case envs.Eval:
		switch {
		case few:
			return test, n, nil
		case f.config.SeedMode == Verl:
			return 0, test, nil // its validation set is its test set
		}
		return test, eval, nil
	case envs.Train:
		if few {
			return test, n, nil
		}
		return eval, n, nil
	}
	return 0, 0, fmt.Errorf("webshop: unknown split %q, want %s, %s or %s",
		split, envs.Train, envs.Eval, envs.Test)
}

// taskID is the id of goal i. It has the seed, because prices, limits and the order of
// the goals depend on it.
func (f *Family) taskID(i int) string {
	return fmt.Sprintf("%s-%s-%d/%d", f.config.Goals, f.config.SeedMode, f.config.Seed, i)
}

// Open implements [envs.Family].
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	i := -1
	if _, number, ok := strings.Cut(t.ID, "/"); ok {
		if n, err := strconv.Atoi(number); err == nil {
			i = n
		}
	}
	if i < 0 || i >= len(f.goals.goals) || f.taskID(i) != t.ID {
		return nil, fmt.Errorf("webshop: unknown task %q, want %s to %s"+
			"\n  hint: an id has the kind of the goals and the seed",
			t.ID, f.taskID(0), f.taskID(len(f.goals.goals)-1))
	}
	s, err := f.session(i, strconv.Itoa(i), t.Seed)
	if err != nil {
		return nil, err
	}
	return envs.Guard(&episode{session: s, config: f.config}), nil
}

// session creates a session with goal i. The caller opens it.
func (f *Family) session(i int, id string, seed uint64) (*session, error) {
	if i < 0 || i >= len(f.goals.goals) {
		return nil, fmt.Errorf("webshop: no goal %d, there are %d", i, len(f.goals.goals))
	}
	w, err := f.goals.want(i)
	if err != nil {
		return nil, err
	}
	return &session{shop: f.shop, id: id, goal: w, seed: seed + uint64(i)}, nil
}
