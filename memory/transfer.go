package memory

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// transferFormat is the version of the file format (JSON lines).
const transferFormat = 1

// A record is one line of an exported file. The lines are
//
//   - one record of kind "bank",
//   - the records of kind "tip", from the oldest to the newest,
//   - the records of kind "state" (visited states), ordered by their last visit.
//
// A file that edits tips has one of kind "bank" and one of an [Edit].
//
// Vectors are not exported. Import computes them with its own embedder.
type record struct {
	Kind     string `json:"kind"`
	Format   int    `json:"format,omitempty"`   // bank
	Embedder string `json:"embedder,omitempty"` // bank; for information only

	Tip    *Tip     `json:"tip,omitempty"`    // tip
	States []string `json:"states,omitempty"` // tip: the keys

	Scope  string `json:"scope,omitempty"`  // state
	State  string `json:"state,omitempty"`  // state
	Visits int    `json:"visits,omitempty"` // state

	Text string `json:"text,omitempty"` // of a tip that is edited
}

// Export writes the bank as of the last commit to w as JSON lines.
func (b *Bank) Export(ctx context.Context, w io.Writer) error {
	tx, err := b.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("export memory: %w", err)
	}
	defer tx.Rollback() // nothing was written
	lines := json.NewEncoder(w)
	bank := record{Kind: "bank", Format: transferFormat, Embedder: b.config.Embedder.Name()}
	if err := lines.Encode(bank); err != nil {
		return fmt.Errorf("export memory: %w", err)
	}
	if err := exportTips(ctx, tx, lines); err != nil {
		return fmt.Errorf("export tips: %w", err)
	}
	if err := exportVisits(ctx, tx, lines); err != nil {
		return fmt.Errorf("export visited states: %w", err)
	}
	return nil
}

func exportTips(ctx context.Context, tx *sql.Tx, lines *json.Encoder) error {
	rows, err := tx.QueryContext(ctx, `SELECT `+tipColumns+`, s.text
		FROM memory_entries e JOIN memory_tips t ON t.id = e.tip JOIN memory_states s ON s.id = e.state
		ORDER BY t.id, e.id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var current *record
	flush := func() error {
		if current == nil {
			return nil
		}
		return lines.Encode(current)
	}
	for rows.Next() {
		var tip Tip
		var state string
		if err := rows.Scan(append(tipFields(&tip), &state)...); err != nil {
			return err
		}
		if current == nil || current.Tip.ID != tip.ID {
			if err := flush(); err != nil {
				return err
			}
			current = &record{Kind: "tip", Tip: &tip}
		}
		current.States = append(current.States, state)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return flush()
}

func exportVisits(ctx context.Context, tx *sql.Tx, lines *json.Encoder) error {
	rows, err := tx.QueryContext(ctx, `SELECT scope, text, visits FROM memory_states
		WHERE visits > 0 ORDER BY scope, visited, id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		r := record{Kind: "state"}
		if err := rows.Scan(&r.Scope, &r.State, &r.Visits); err != nil {
			return err
		}
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Import adds an exported file to the bank in one transaction. After an error the
// bank is unchanged. Import returns the number of tips in the file.
//
// Tips get new ids and keep their provenance. An imported tip replaces a tip of
// the bank with the same state and text, and the capacity is enforced. The caller
// must have no open transaction. with, if not nil, writes more in the same
// transaction.
func (b *Bank) Import(ctx context.Context, r io.Reader, with func(*sql.Tx) error) (tips int, err error) {
	if err := b.CheckEmbedder(ctx); err != nil {
		return 0, fmt.Errorf("import memory: %w", err)
	}
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("import memory: %w", err)
	}
	defer tx.Rollback() // no effect after a commit
	w, err := b.newWriter(ctx, tx)
	if err != nil {
		return 0, fmt.Errorf("import memory: %w", err)
	}
	defer w.close()
	tips, err = b.importRecords(ctx, w, r)
	if err != nil {
		return 0, fmt.Errorf("import memory: %w", err)
	}
	scopes, err := w.finish(ctx)
	if err != nil {
		return 0, fmt.Errorf("import memory: %w", err)
	}
	if with != nil {
		if err := with(tx); err != nil {
			return 0, fmt.Errorf("import memory: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return 0, fmt.Errorf("import memory: %w", err)
	}
	b.forget(scopes)
	return tips, nil
}

// tipsHint is the remedy for a file that is not one of tips.
const tipsHint = "\n  hint: a file of tips has a JSON object in each line; empo2 memory export writes one"

func (b *Bank) importRecords(ctx context.Context, w *writer, r io.Reader) (tips int, err error) {
	lines := json.NewDecoder(r)
	for n := 1; ; n++ {
		var rec record
		err := lines.Decode(&rec)
		if errors.Is(err, io.EOF) && n > 1 {
			return tips, nil
		}
		if err != nil {
			return 0, fmt.Errorf("record %d: %w%s", n, safetext.JSONError(err), tipsHint)
		}
		if (n == 1) != (rec.Kind == "bank") {
			return 0, fmt.Errorf("record %d is of kind %q; the first record, and no other, must be of kind \"bank\"%s",
				n, rec.Kind, tipsHint)
		}
		if isEdit(rec.Kind) {
			if err := w.edit(ctx, rec); err != nil {
				return 0, fmt.Errorf("record %d: %w", n, err)
			}
			continue
		}
		l, err := b.importRecord(ctx, rec)
		if err != nil {
			return 0, fmt.Errorf("record %d: %w", n, err)
		}
		if len(l.states) == 0 {
			continue
		}
		if l.tip.Text != "" {
			tips++
		}
		if err := w.write(ctx, l); err != nil {
			return 0, fmt.Errorf("record %d: %w", n, err)
		}
	}
}

// importRecord returns the lesson of a record. A lesson without states need not
// be stored.
func (b *Bank) importRecord(ctx context.Context, rec record) (l lesson, err error) {
	switch {
	case rec.Kind == "bank" && rec.Format == transferFormat:
		return lesson{}, nil
	case rec.Kind == "bank":
		return lesson{}, fmt.Errorf("the format is %d, but this program reads %d%s", rec.Format,
			transferFormat, tipsHint)
	case rec.Kind == "tip" && rec.Tip != nil:
		l, err = b.lesson(ctx, Experience{Scope: rec.Tip.Scope, States: rec.States, Tip: *rec.Tip})
		for i := range l.states {
			l.states[i].visits = 0 // the records of kind "state" have the visits
		}
		return l, err
	case rec.Kind == "state" && rec.Visits > 0:
		l, err = b.lesson(ctx, Experience{Scope: rec.Scope, States: []string{rec.State}})
		for i := range l.states {
			l.states[i].visits = rec.Visits
		}
		return l, err
	}
	return lesson{}, fmt.Errorf("it is of kind %q and is not a record of a bank%s", rec.Kind, tipsHint)
}
