package memory

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A lesson is an experience with embedded states: the distinct states in the
// order of their first visit, with their vectors and numbers of visits.
type lesson struct {
	scope  string
	tip    Tip // empty text: none
	states []visited
}

type visited struct {
	text   string
	vector []float32
	visits int
}

// Learn implements [Strategy]. It embeds the states, so that no transaction
// waits for an embedding server. The text of the tip is cleaned by [CleanTip],
// without a limit. Empty states are ignored.
func (b *Bank) Learn(ctx context.Context, e Experience) error {
	l, err := b.lesson(ctx, e)
	if err != nil {
		return fmt.Errorf("learn in scope %q: %w", e.Scope, err)
	}
	if len(l.states) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buffer = append(b.buffer, l)
	return nil
}

func (b *Bank) lesson(ctx context.Context, e Experience) (lesson, error) {
	l := lesson{scope: e.Scope, tip: e.Tip}
	l.tip.Scope, l.tip.Text = e.Scope, CleanTip(e.Tip.Text, 0)
	switch {
	case e.Scope == "":
		return lesson{}, errors.New("the scope is empty")
	case math.IsNaN(e.Tip.Score) || math.IsInf(e.Tip.Score, 0):
		return lesson{}, fmt.Errorf("the score of %q is %v", l.tip.Text, e.Tip.Score)
	}
	if l.tip.Text == "" && !b.config.Novelty.visits() {
		return lesson{}, nil
	}
	l.states = distinct(e.States)
	if len(l.states) == 0 && l.tip.Text != "" {
		return lesson{}, fmt.Errorf("no state was visited, so the tip %q has no key", l.tip.Text)
	}
	texts := make([]string, len(l.states))
	for i, s := range l.states {
		texts[i] = s.text
	}
	vectors, err := Embed(ctx, b.config.Embedder, texts...)
	if err != nil {
		return lesson{}, err
	}
	for i := range l.states {
		l.states[i].vector = vectors[i]
		if !b.config.Novelty.visits() {
			l.states[i].visits = 0
		}
	}
	return l, nil
}

// distinct counts the visits of each state.
func distinct(texts []string) []visited {
	var states []visited
	at := make(map[string]int)
	for _, text := range texts {
		if text == "" {
			continue
		}
		i, ok := at[text]
		if !ok {
			i = len(states)
			at[text] = i
			states = append(states, visited{text: text})
		}
		states[i].visits++
	}
	return states
}

// Embed returns the vectors of texts and checks them.
func Embed(ctx context.Context, e Embedder, texts ...string) ([][]float32, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	name := e.Name()
	vectors, err := e.Embed(ctx, texts...)
	if err != nil {
		return nil, fmt.Errorf("embed with %s: %w", name, err)
	}
	if len(vectors) != len(texts) {
		return nil, fmt.Errorf("embedder %s returned %d vectors for %d texts", name, len(vectors), len(texts))
	}
	for _, v := range vectors {
		var sum float64
		for _, f := range v {
			sum += float64(f) * float64(f)
		}
		if len(v) != len(vectors[0]) || len(v) == 0 {
			return nil, fmt.Errorf("embedder %s returned vectors of %d and %d dimensions",
				name, len(vectors[0]), len(v))
		}
		// A text without words has the zero vector.
		if !(math.Abs(sum-1) < 1e-3 || sum == 0) {
			return nil, fmt.Errorf("embedder %s returned a vector of squared length %v, want 1", name, sum)
		}
	}
	return vectors, nil
}

// Commit implements [Strategy]. An experience that is learnt while the
// transaction is open belongs to the next commit. If Commit fails, the buffered
// experiences are lost, as after done(false). The caller may then call done.
func (b *Bank) Commit(ctx context.Context, tx *sql.Tx) (done func(committed bool), err error) {
	b.mu.Lock()
	if b.committing {
		b.mu.Unlock()
		return func(bool) {}, errors.New("commit memory: the previous commit is not finished (call its done first)")
	}
	lessons := b.buffer
	b.buffer, b.committing = nil, true
	b.mu.Unlock()

	scopes, err := b.write(ctx, tx, lessons)
	if err != nil {
		b.finish(nil)
		return func(bool) {}, fmt.Errorf("commit memory: %w", err)
	}
	called := false
	return func(committed bool) {
		if called {
			return
		}
		called = true
		if !committed {
			scopes = nil
		}
		b.finish(scopes)
	}, nil
}

// finish ends a commit and marks the changed scopes.
func (b *Bank) finish(changed []string) {
	b.forget(changed)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.committing = false
}

// forget marks scopes in RAM as changed. The next use reads what is new.
func (b *Bank) forget(scopes []string) {
	for _, scope := range scopes {
		b.mu.Lock()
		s, ok := b.scopes.Peek(scope)
		b.mu.Unlock()
		if ok {
			s.mu.Lock()
			s.stale = true
			s.mu.Unlock()
		}
	}
}

// write stores lessons, ordered by their provenance, and returns the changed
// scopes. The order in which the lessons were learnt has no effect.
func (b *Bank) write(ctx context.Context, tx *sql.Tx, lessons []lesson) ([]string, error) {
	if len(lessons) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(lessons, compareLessons)
	w, err := b.newWriter(ctx, tx)
	if err != nil {
		return nil, err
	}
	defer w.close()
	for _, l := range lessons {
		first, err := w.first(ctx, l.tip)
		if err != nil {
			return nil, err
		}
		if !first {
			continue
		}
		if err := w.write(ctx, l); err != nil {
			return nil, fmt.Errorf("store a tip of scope %q: %w", l.scope, err)
		}
	}
	return w.finish(ctx)
}

func compareLessons(a, b lesson) int {
	return cmp.Or(
		cmp.Compare(a.tip.Step, b.tip.Step),
		cmp.Compare(a.tip.Group, b.tip.Group),
		cmp.Compare(a.tip.Episode, b.tip.Episode),
		strings.Compare(a.scope, b.scope),
		strings.Compare(a.tip.Text, b.tip.Text),
		cmp.Compare(a.tip.Score, b.tip.Score),
		slices.CompareFunc(a.states, b.states, func(x, y visited) int {
			return strings.Compare(x.text, y.text)
		}),
	)
}
