package ledger

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"sync"
)

// A writeQueue commits the episodes of many callers in one transaction: a transaction
// costs more than the rows of an episode. A caller that finds the queue idle commits at
// once what is there, and does not wait for others. Those that come meanwhile are the
// next transaction, and the first of them commits it.
type writeQueue struct {
	mu      sync.Mutex
	waiting []*queuedWrite
	busy    bool // a caller is committing
}

// maxTogether bounds the writes of a transaction.
const maxTogether = 256

// A queuedWrite is what one caller writes.
type queuedWrite struct {
	write func(t *writeTx) error
	err   error
	// done is closed when err is set. lead is closed if the caller must commit the next
	// transaction. Exactly one of them is closed.
	done, lead chan struct{}
}

// writeTogether makes the changes of write in a transaction and returns after its commit. If write
// fails, its changes are undone and those of others are not. write may be called twice.
func (l *Ledger) writeTogether(ctx context.Context, write func(t *writeTx) error) error {
	own := &queuedWrite{write: write, done: make(chan struct{}), lead: make(chan struct{})}
	q := &l.writes
	q.mu.Lock()
	q.waiting = append(q.waiting, own)
	leads := !q.busy
	q.busy = true
	q.mu.Unlock()
	if !leads {
		select {
		case <-own.done:
			return own.err
		case <-own.lead:
		}
	}
	runtime.Gosched() // those that are about to write join
	batch := q.take()
	l.commitAll(ctx, batch)
	q.handOver()
	for _, w := range batch {
		if w != own {
			close(w.done)
		}
	}
	return own.err
}

// take returns the writes of the next transaction. The first one is the caller's.
func (q *writeQueue) take() []*queuedWrite {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), maxTogether)
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return batch
}

// handOver lets the first of those that wait commit.
func (q *writeQueue) handOver() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = len(q.waiting) > 0
	if q.busy {
		close(q.waiting[0].lead)
	}
}

// commitAll sets the error of each write. The context is that of the caller that
// commits; the writes of others do not end with it.
func (l *Ledger) commitAll(ctx context.Context, batch []*queuedWrite) {
	if len(batch) > 1 {
		if l.writeAll(context.WithoutCancel(ctx), batch) == nil {
			return
		}
		ctx = context.WithoutCancel(ctx) // one of them failed: each on its own
	}
	for i, w := range batch {
		w.err = l.writeAll(ctx, batch[i:i+1])
	}
}

// writeAll makes several writes in one transaction.
func (l *Ledger) writeAll(ctx context.Context, batch []*queuedWrite) error {
	statements, err := l.prepared(ctx)
	if err != nil {
		return err
	}
	return transact(ctx, l.db, func(tx *sql.Tx) error {
		t := &writeTx{ctx: ctx, tx: tx, statements: statements, bound: map[string]*sql.Stmt{},
			added: map[string]int64{}}
		for _, w := range batch {
			if err := w.write(t); err != nil {
				return err
			}
		}
		if len(t.added) == 0 {
			return nil
		}
		return count(ctx, tx, t.added)
	})
}

// A writeTx is a transaction with the prepared statements of episodes.
type writeTx struct {
	ctx        context.Context
	tx         *sql.Tx
	statements map[string]*sql.Stmt
	bound      map[string]*sql.Stmt // those of this transaction
	added      map[string]int64     // rows by table, which are counted at the end
}

// statement returns one of [episodeStatements] for this transaction.
func (t *writeTx) statement(query string) *sql.Stmt {
	if t.bound[query] == nil {
		t.bound[query] = t.tx.StmtContext(t.ctx, t.statements[query])
	}
	return t.bound[query]
}

func (t *writeTx) exec(query string, args ...any) (sql.Result, error) {
	return t.statement(query).ExecContext(t.ctx, args...)
}

// exists reports whether the query returns a row.
func (t *writeTx) exists(query string, args ...any) (bool, error) {
	var one int
	err := t.statement(query).QueryRowContext(t.ctx, args...).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// prepared returns [episodeStatements], which are prepared once.
func (l *Ledger) prepared(ctx context.Context) (map[string]*sql.Stmt, error) {
	l.preparing.Lock()
	defer l.preparing.Unlock()
	if l.statements != nil {
		return l.statements, nil
	}
	all := map[string]*sql.Stmt{}
	for _, query := range episodeStatements {
		s, err := l.db.PrepareContext(ctx, query)
		if err != nil {
			for _, s := range all {
				s.Close()
			}
			return nil, err
		}
		all[query] = s
	}
	l.statements = all
	return all, nil
}
