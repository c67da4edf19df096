package strategies

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/empo2/empo2/memory"
)

// scopesInRAM is the size of the cache of scopes.
const scopesInRAM = 256

// A store is a strategy whose cases are in the run's database. It is safe for
// concurrent use.
type store[T any] struct {
	db       *sql.DB
	name     string          // of the strategy
	embedder memory.Embedder // nil: the method needs no vectors
	method   method[T]

	mu         sync.Mutex
	scopes     *simplelru.LRU[string, *cachedScope[T]]
	buffer     []episode // learnt, not committed
	committing bool
}

// open opens the cases of a strategy in db, whose tables [memory.Migrate] has
// created. name and the embedder's name must be those of the cases in db.
func open[T any](ctx context.Context, db *sql.DB, name string, e memory.Embedder, m method[T]) (*store[T], error) {
	if err := checkOwner(ctx, db, name, embedderName(e)); err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	scopes, err := simplelru.NewLRU[string, *cachedScope[T]](scopesInRAM, nil)
	if err != nil {
		return nil, fmt.Errorf("open memory: %w", err)
	}
	return &store[T]{db: db, name: name, embedder: e, method: m, scopes: scopes}, nil
}

func embedderName(e memory.Embedder) string {
	if e == nil {
		return ""
	}
	return e.Name()
}

// Recall implements [memory.Strategy].
func (s *store[T]) Recall(ctx context.Context, state memory.State) (memory.Recollection, error) {
	q, m, err := s.ask(ctx, state)
	if err != nil {
		return memory.Recollection{}, fmt.Errorf("recall in scope %q: %w", state.Scope, err)
	}
	return s.method.recall(q, m), nil
}

// ask returns a query and the scope that it is about.
func (s *store[T]) ask(ctx context.Context, state memory.State) (query, *scope[T], error) {
	q, err := s.query(ctx, state)
	if err != nil {
		return q, nil, err
	}
	m, err := s.scope(ctx, state.Scope)
	return q, m, err
}

// query returns the query for a state.
func (s *store[T]) query(ctx context.Context, state memory.State) (query, error) {
	q := query{text: state.Text, rng: rand.New(rand.NewPCG(state.Seed, 0x9e3779b97f4a7c15))}
	vectors, err := s.embed(ctx, []string{state.Text})
	if vectors != nil {
		q.vector = vectors[0]
	}
	return q, err
}

// A cachedScope is a scope in the cache. Its lock makes concurrent episodes wait
// while one of them loads the scope.
type cachedScope[T any] struct {
	mu    sync.Mutex
	scope *scope[T] // nil until it is loaded
}

// scope returns a scope as of the last commit. It must not be changed. The lock of the
// store is not held while a scope is loaded: the load may wait for the connection that a
// commit has, and the commit waits for the lock.
func (s *store[T]) scope(ctx context.Context, name string) (*scope[T], error) {
	c := s.cached(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.scope != nil {
		return c.scope, nil
	}
	m, err := load[T](ctx, s.db, name)
	if err == nil {
		c.scope = m
	}
	return m, err
}

// cached returns the cache's entry of a scope. If the cache is full, the least
// recently used scope is dropped.
func (s *store[T]) cached(name string) *cachedScope[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.scopes.Get(name)
	if !ok {
		c = &cachedScope[T]{}
		s.scopes.Add(name, c)
	}
	return c
}

// forget drops what the cache has of a scope. A load that has begun ends first.
func (s *store[T]) forget(name string) {
	s.mu.Lock()
	c, ok := s.scopes.Peek(name)
	s.mu.Unlock()
	if ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.scope = nil
	}
}

// Learn implements [memory.Strategy]. It embeds the states, so that no transaction
// waits for an embedding server.
func (s *store[T]) Learn(ctx context.Context, x memory.Experience) error {
	e, err := s.episode(ctx, x)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buffer = append(s.buffer, e)
	return nil
}

// episode checks an experience and embeds its states.
func (s *store[T]) episode(ctx context.Context, x memory.Experience) (episode, error) {
	if err := validate(x); err != nil {
		return episode{}, fmt.Errorf("learn in scope %q: %w", x.Scope, err)
	}
	x.Tip.Scope, x.Tip.Text = x.Scope, memory.CleanTip(x.Tip.Text, 0)
	vectors, err := s.embed(ctx, x.States)
	if err != nil {
		return episode{}, fmt.Errorf("learn in scope %q: %w", x.Scope, err)
	}
	return episode{x, vectors}, nil
}

func validate(x memory.Experience) error {
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	switch {
	case x.Scope == "":
		return errors.New("the scope is empty")
	case x.Turns != nil && len(x.Turns) != len(x.States):
		return fmt.Errorf("%d turns in %d states", len(x.Turns), len(x.States))
	case !finite(x.Return) || !finite(x.Tip.Score) || x.WithoutTips != nil && !finite(*x.WithoutTips):
		return fmt.Errorf("return %v or score %v is not finite", x.Return, x.Tip.Score)
	}
	for i, turn := range x.Turns {
		if !finite(turn.Reward) {
			return fmt.Errorf("the reward of turn %d is %v", i, turn.Reward)
		}
	}
	return nil
}

// embed returns the vectors of texts, nil if the method needs none.
func (s *store[T]) embed(ctx context.Context, texts []string) ([][]float32, error) {
	if s.embedder == nil || len(texts) == 0 {
		return nil, nil
	}
	return memory.Embed(ctx, s.embedder, texts...)
}

// Commit implements [memory.Strategy]. Episodes are learnt in the order of their
// names, whatever the order in which they arrived. An experience that is learnt
// while the transaction is open belongs to the next commit.
func (s *store[T]) Commit(ctx context.Context, tx *sql.Tx) (done func(committed bool), err error) {
	s.mu.Lock()
	if s.committing {
		s.mu.Unlock()
		return func(bool) {}, errors.New("commit memory: the previous commit is not finished (call its done first)")
	}
	episodes := s.buffer
	s.buffer, s.committing = nil, true
	s.mu.Unlock()

	changed, err := s.learn(ctx, tx, episodes)
	if err != nil {
		s.finish(nil)
		return func(bool) {}, fmt.Errorf("commit memory: %w", err)
	}
	return once(func(committed bool) {
		if !committed {
			changed = nil
		}
		s.finish(changed)
	}), nil
}

// finish ends a commit. The changed scopes are read again when they are needed.
func (s *store[T]) finish(changed map[string]*scope[T]) {
	for name := range changed {
		s.forget(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.committing = false
}

// learn writes what the episodes teach, and returns the changed scopes.
func (s *store[T]) learn(ctx context.Context, tx *sql.Tx, episodes []episode) (map[string]*scope[T], error) {
	if len(episodes) == 0 {
		return nil, nil
	}
	if err := claim(ctx, tx, s.name, embedderName(s.embedder)); err != nil {
		return nil, err
	}
	slices.SortStableFunc(episodes, func(a, b episode) int {
		return cmp.Or(cmp.Compare(a.Tip.Step, b.Tip.Step), cmp.Compare(a.Tip.Group, b.Tip.Group),
			cmp.Compare(a.Tip.Episode, b.Tip.Episode), cmp.Compare(a.Scope, b.Scope))
	})
	changed := map[string]*scope[T]{}
	var order []string // so that ids are reproducible
	for _, e := range episodes {
		first, err := memory.First(ctx, tx, e.Tip)
		if err != nil {
			return nil, err
		}
		if !first {
			continue
		}
		if changed[e.Scope] == nil {
			if changed[e.Scope], err = load[T](ctx, tx, e.Scope); err != nil {
				return nil, err
			}
			order = append(order, e.Scope)
		}
		s.method.learn(e, changed[e.Scope])
	}
	for _, name := range order {
		if err := save(ctx, tx, changed[name]); err != nil {
			return nil, fmt.Errorf("store scope %q: %w", name, err)
		}
	}
	return changed, nil
}

// A choosing store has a method that chooses.
type choosing[T any] struct {
	*store[T]
	chooser chooser[T]
}

var _ memory.Chooser = choosing[step]{}

// Choose implements [memory.Chooser].
func (s choosing[T]) Choose(ctx context.Context, state memory.State, c []memory.Candidate) (string, error) {
	if len(c) == 0 {
		return "", fmt.Errorf("choose in scope %q: there is no candidate", state.Scope)
	}
	q, m, err := s.ask(ctx, state)
	if err != nil {
		return "", fmt.Errorf("choose in scope %q: %w", state.Scope, err)
	}
	return s.chooser.choose(q, c, m), nil
}

// once returns a function that calls f the first time only.
func once(f func(bool)) func(bool) {
	var first sync.Once
	return func(committed bool) { first.Do(func() { f(committed) }) }
}
