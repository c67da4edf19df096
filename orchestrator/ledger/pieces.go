package ledger

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
)

// piecesTable is the table of the texts of tokens.
const piecesTable = "pieces"

// pieceSum is the checksum of a row of pieces.
func pieceSum(id int64, text string) int64 {
	row := append(binary.AppendVarint(nil, id), text...)
	return int64(int32(crc32.ChecksumIEEE(row))) // four bytes in SQLite
}

// SavePieces stores the texts of token ids, for people who look at episodes.
func (l *Ledger) SavePieces(ctx context.Context, pieces map[int32]string) error {
	err := transact(ctx, l.db, func(tx *sql.Tx) error {
		before, err := rowsOf(ctx, tx, piecesTable)
		if err != nil {
			return err
		}
		for id, text := range pieces {
			if err := savePiece(ctx, tx, int64(id), text); err != nil {
				return err
			}
		}
		after, err := rowsOf(ctx, tx, piecesTable)
		if err != nil {
			return err
		}
		return count(ctx, tx, map[string]int64{piecesTable: after - before})
	})
	if err != nil {
		return fmt.Errorf("save the texts of tokens: %w", explain(err))
	}
	return nil
}

func savePiece(ctx context.Context, to execer, id int64, text string) error {
	_, err := to.ExecContext(ctx, "INSERT OR REPLACE INTO main.pieces(id, text, checksum) VALUES(?, ?, ?)",
		id, text, pieceSum(id, text))
	return err
}

// Pieces returns the texts of token ids, as far as they are known. Nil ids: all. A
// damaged text is not known: the run stores it again when it samples the token.
func (l *Ledger) Pieces(ctx context.Context, ids []int32) (map[int32]string, error) {
	out := map[int32]string{}
	where, args := "", []any{}
	if ids != nil {
		where = "WHERE id IN (NULL" + strings.Repeat(", ?", len(ids)) + ")"
		for _, id := range ids {
			args = append(args, id)
		}
	}
	err := l.eachPiece(ctx, "main", where, func(id int64, text string, right bool) error {
		if right {
			out[int32(id)] = text
		}
		return nil
	}, args...)
	if err != nil {
		return nil, explain(err)
	}
	return out, nil
}

// eachPiece calls yield with the rows of pieces in a schema. right says that the row
// agrees with its checksum. The rows of an earlier version of empo2 have none, and
// even earlier ones have no table.
func (l *Ledger) eachPiece(
	ctx context.Context, schema, where string, yield func(id int64, text string, right bool) error, args ...any,
) error {
	if known, err := l.hasTable(ctx, schema, piecesTable); err != nil || !known {
		return err
	}
	summed, err := hasPieceSums(ctx, l.db, schema)
	if err != nil {
		return err
	}
	sum := "NULL"
	if summed {
		sum = "checksum"
	}
	rows, err := selectAll(ctx, l.db, "SELECT id, text, "+sum+" FROM "+schema+".pieces "+where, 3, args...)
	for _, row := range rows {
		id, _ := row[0].(int64)
		text, isText := row[1].(string)
		right := isText && (!summed || row[2] == any(pieceSum(id, text)))
		if err := yield(id, text, right); err != nil {
			return err
		}
	}
	return err
}

func hasPieceSums(ctx context.Context, from rowQueryer, schema string) (bool, error) {
	var n int
	err := from.QueryRowContext(ctx, "SELECT count(*) FROM pragma_table_info(?, ?) WHERE name = 'checksum'",
		piecesTable, schema).Scan(&n)
	return n > 0, err
}

// addPieceSums computes the checksums of the texts that an earlier version of empo2
// stored.
func addPieceSums(ctx context.Context, db *sql.DB) error {
	if done, err := hasPieceSums(ctx, db, "main"); err != nil || done {
		return err
	}
	return transact(ctx, db, func(tx *sql.Tx) error {
		rows, err := selectAll(ctx, tx, "SELECT id, text FROM pieces", 2)
		if err == nil {
			_, err = tx.ExecContext(ctx, "ALTER TABLE pieces ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
		}
		for _, row := range rows {
			id, _ := row[0].(int64)
			if err == nil {
				err = savePiece(ctx, tx, id, fmt.Sprint(row[1]))
			}
		}
		return err
	})
}

// copyPieces copies the texts from the attached database. Those that are damaged or
// cannot be read are left out.
func (l *Ledger) copyPieces(ctx context.Context) error {
	type piece struct {
		id   int64
		text string
	}
	var good []piece
	err := l.eachPiece(ctx, "old", "", func(id int64, text string, right bool) error {
		if right {
			good = append(good, piece{id, text})
		}
		return nil
	})
	if err != nil {
		return ctx.Err()
	}
	return transact(ctx, l.db, func(tx *sql.Tx) error {
		for _, p := range good {
			if err := savePiece(ctx, tx, p.id, p.text); err != nil {
				return err
			}
		}
		return nil
	})
}

// verifyPieces compares the rows of pieces with their checksums, and returns how many
// are right.
func verifyPieces(ctx context.Context, l *Ledger) (n int, err error) {
	err = l.eachPiece(ctx, "main", "", func(id int64, _ string, right bool) error {
		if !right {
			return fmt.Errorf("%w: the text of token %d in run.db differs from its checksum%s", ErrDamaged, id, checkHint)
		}
		n++
		return nil
	})
	return n, explain(err)
}
