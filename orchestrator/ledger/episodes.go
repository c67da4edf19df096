package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Episode is one finished episode. Trajectory is JSON; Tokens and Logprobs hold
// its arrays of numbers. The other fields repeat parts of it for queries.
type Episode struct {
	Step           int64
	Group, Episode int
	Task, Mode     string
	Version        int
	Stop           string
	EnvReturn      float64
	Score          float64
	Success        bool
	At             string // when it ended, RFC 3339; empty: unknown
	Trajectory     json.RawMessage
	Tokens         []byte // empty: they are in Trajectory
	Logprobs       []byte

	Kind string // of an episode that is not trained; empty: a training episode

	// Facts are stored beside the episode, for lists and filters. Nil: they are not
	// known; those that read whole episodes leave it nil.
	Facts *Facts
}

// KindFailed is the kind of episodes that failed after all retries.
const KindFailed = "failed"

// KindCancelled is the kind of episodes that a step did not wait for.
const KindCancelled = "cancelled"

// Estimate is what a step made of a training episode.
type Estimate struct {
	Group, Episode int
	Advantage      float64
	Bonus          float64 // intrinsic reward
	Tokens         int     // trained; 0: not trained
	// Logprobs are the trainer's of the trained tokens, in the context in which
	// they are trained, before the update. Nil: not computed.
	Logprobs []float32
}

func (e Estimate) values(step int64) []any {
	packed := make([]byte, 0, 4*len(e.Logprobs))
	for _, v := range e.Logprobs {
		b := math.Float32bits(v)
		packed = append(packed, byte(b), byte(b>>8), byte(b>>16), byte(b>>24))
	}
	return []any{step, e.Group, e.Episode, e.Advantage, e.Bonus, e.Tokens, packed}
}

// pack returns the columns of the episode as they are stored.
func (e Episode) pack() ([]any, error) {
	tokens, err := deflate(e.Tokens)
	if err != nil {
		return nil, err
	}
	values := []any{e.Step, e.Group, e.Episode, e.Task, e.Mode, e.Version, e.Stop, e.EnvReturn, e.Score, e.Success,
		e.At, compressText(e.Trajectory), tokens, slices.Concat([]byte{}, e.Logprobs)}
	if e.Kind != "" {
		values = append([]any{e.Kind}, values...)
	}
	return values, nil
}

// Size is what the episode takes in the database, in bytes, apart from the overhead
// of a row.
func (e Episode) Size() (int, error) {
	values, err := e.pack()
	size := 0
	for _, v := range values {
		switch v := plainValue(v).(type) {
		case string:
			size += len(v)
		case []byte:
			size += len(v)
		default:
			size += 8 // an integer or a float
		}
	}
	if e.Facts != nil {
		size += factsSize + len(e.Facts.Tips)
	}
	return size, err
}

// The statements that write episodes.
var (
	insertEpisode   = tableNamed("episodes").insertion("")
	insertUntrained = tableNamed("untrained").insertion(tableNamed("untrained").upsert())
	updateEpisode   = "UPDATE episodes SET " + strings.Join(tableNamed("episodes").columns, " = ?, ") +
		" = ?, checksum = ? WHERE step = ? AND grp = ? AND episode = ?"
	findUntrained = "SELECT 1 FROM untrained WHERE kind = ? AND step = ? AND grp = ? AND episode = ?"

	episodeStatements = []string{insertEpisode, insertUntrained, updateEpisode, findUntrained, insertNames, insertFacts}
)

// AddEpisode makes one finished episode durable. Adding a training episode twice
// is an error. An episode that is not trained replaces an earlier one. Episodes that
// are added at the same time share a transaction.
func (l *Ledger) AddEpisode(ctx context.Context, e Episode) error {
	err := l.saveEpisode(ctx, e, func(t *writeTx, row []any) error {
		if e.Kind == "" {
			t.added["episodes"]++
			_, err := t.exec(insertEpisode, row...)
			return err
		}
		replaces, err := t.exists(findUntrained, row[:4]...)
		if err != nil {
			return err
		}
		if !replaces {
			t.added["untrained"]++
		}
		_, err = t.exec(insertUntrained, row...)
		return err
	})
	if err != nil {
		return fmt.Errorf("save episode %d/%d/%d: %w", e.Step, e.Group, e.Episode, explain(err))
	}
	return nil
}

// UpdateEpisode replaces a training episode by one that holds its tip.
func (l *Ledger) UpdateEpisode(ctx context.Context, e Episode) error {
	err := l.saveEpisode(ctx, e, func(t *writeTx, row []any) error {
		done, err := t.exec(updateEpisode, append(row[:len(row):len(row)], e.Step, e.Group, e.Episode)...)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, errors.New("it was never added"))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("save the tip of episode %d/%d/%d: %w", e.Step, e.Group, e.Episode, explain(err))
	}
	return nil
}

// saveEpisode writes an episode and its facts. write gets the row with its checksum.
func (l *Ledger) saveEpisode(ctx context.Context, e Episode, write func(t *writeTx, row []any) error) error {
	values, err := e.pack()
	if err != nil {
		return err
	}
	row := append(plainValues(values), checksum(values...))
	return l.writeTogether(ctx, func(t *writeTx) error {
		if err := write(t, row); err != nil || e.Facts == nil {
			return err
		}
		return writeFacts(e, t.exec)
	})
}

func plainValues(values []any) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = plainValue(v)
	}
	return out
}

// Episodes returns the finished training episodes of a step, ordered by group and
// number.
func (l *Ledger) Episodes(ctx context.Context, step int64) ([]Episode, error) {
	return episodes(ctx, l.db, "WHERE step = ? ORDER BY grp, episode", step)
}

// DropUntrained removes the episodes of a kind and a step that are not trained.
func (l *Ledger) DropUntrained(ctx context.Context, kind string, step int64) error {
	const where = "kind = ? AND step = ?"
	return explain(transact(ctx, l.db, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "DELETE FROM facts WHERE "+where, kind, step); err != nil {
			return err
		}
		return drop(ctx, tx, "untrained", where, kind, step)
	}))
}

// Untrained returns the episodes of a kind and a step that are not trained.
func (l *Ledger) Untrained(ctx context.Context, kind string, step int64) ([]Episode, error) {
	return readEpisodes(ctx, l.db, "untrained", "WHERE kind = ? AND step = ? ORDER BY grp, episode", kind, step)
}

// episodes reads and verifies training episodes. tail is the end of the query.
func episodes(ctx context.Context, from queryer, tail string, args ...any) ([]Episode, error) {
	return readEpisodes(ctx, from, "episodes", tail, args...)
}

func readEpisodes(ctx context.Context, from queryer, name, tail string, args ...any) ([]Episode, error) {
	t := tableNamed(name)
	rows, err := from.QueryContext(ctx, "SELECT "+t.list()+" FROM "+name+" "+tail, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []Episode
	for rows.Next() {
		e, err := scanEpisode(rows, name)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, explain(rows.Err())
}

// scanEpisode reads one row and verifies it.
func scanEpisode(row interface{ Scan(...any) error }, name string) (Episode, error) {
	var e Episode
	var text, tokens any
	var sum string
	into := []any{&e.Step, &e.Group, &e.Episode, &e.Task, &e.Mode, &e.Version, &e.Stop, &e.EnvReturn,
		&e.Score, &e.Success, &e.At, &text, &tokens, &e.Logprobs, &sum}
	if name == "untrained" {
		into = append([]any{&e.Kind}, into...)
	}
	if err := row.Scan(into...); err != nil {
		return e, unreadable(name, err)
	}
	if e.Logprobs == nil {
		e.Logprobs = []byte{}
	}
	stored := []any{e.Step, e.Group, e.Episode, e.Task, e.Mode, e.Version, e.Stop, e.EnvReturn, e.Score, e.Success,
		e.At, text, tokens, e.Logprobs}
	if e.Kind != "" {
		stored = append([]any{e.Kind}, stored...)
	}
	if err := verify(fmt.Sprintf("episode %d/%d/%d", e.Step, e.Group, e.Episode), sum, stored...); err != nil {
		return e, err
	}
	var err error
	if e.Trajectory, err = inflate(text); err != nil {
		return e, unreadable(name, err)
	}
	if e.Tokens, err = inflate(tokens); err != nil {
		return e, unreadable(name, err)
	}
	if len(e.Logprobs) == 0 {
		e.Logprobs = nil
	}
	return e, nil
}

// Estimates returns what the commit of a step has recorded of its episodes, by
// group and number.
func (l *Ledger) Estimates(ctx context.Context, step int64) ([]Estimate, error) {
	return estimates(ctx, l.db, step, "WHERE step = ? ORDER BY grp, episode", step)
}

// EstimateAt returns what the commit of a step has recorded of an episode; nil if it
// has recorded nothing.
func (l *Ledger) EstimateAt(ctx context.Context, step int64, group, episode int) (*Estimate, error) {
	found, err := estimates(ctx, l.db, step, "WHERE step = ? AND grp = ? AND episode = ?", step, group, episode)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func estimates(ctx context.Context, from queryer, step int64, tail string, args ...any) ([]Estimate, error) {
	rows, err := from.QueryContext(ctx, "SELECT "+tableNamed("estimates").list()+" FROM estimates "+tail, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []Estimate
	for rows.Next() {
		var e Estimate
		var packed []byte
		var sum string
		if err := rows.Scan(&step, &e.Group, &e.Episode, &e.Advantage, &e.Bonus, &e.Tokens, &packed, &sum); err != nil {
			return nil, unreadable("estimates", err)
		}
		for ; len(packed) >= 4; packed = packed[4:] {
			e.Logprobs = append(e.Logprobs, math.Float32frombits(
				uint32(packed[0])|uint32(packed[1])<<8|uint32(packed[2])<<16|uint32(packed[3])<<24))
		}
		what := fmt.Sprintf("the estimate of episode %d/%d/%d", step, e.Group, e.Episode)
		if err := verify(what, sum, e.values(step)...); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, explain(rows.Err())
}
