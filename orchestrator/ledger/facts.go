package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	_ "embed"
	"encoding/binary"
	"hash/crc32"
	"math"
)

//go:embed facts.sql
var factsSchema string

// Facts is what lists and filters need of an episode's trajectory. The caller of
// [Ledger.AddEpisode] computes them.
type Facts struct {
	Turns     int
	Cut       int // replies cut at the limit of tokens
	Empty     int // replies without an action
	TipsShown int // in its prompts
	// Tips holds the tips that the episode saw or wrote; see [AppendTip].
	Tips []byte
}

// TipKey names a tip by its scope and its text.
type TipKey [5]byte

// KeyOfTip returns the key of a tip: the beginning of its SHA-256. Among 100,000
// tips, the chance that two have the same is 0.5 %.
func KeyOfTip(scope, text string) (k TipKey) {
	sum := sha256.Sum256([]byte(scope + "\x00" + text))
	copy(k[:], sum[:])
	return k
}

// AppendTip adds a tip to [Facts].Tips. shown counts the prompts that showed it; 0:
// the episode wrote it.
func AppendTip(to []byte, key TipKey, shown int) []byte {
	return binary.AppendUvarint(append(to, key[:]...), uint64(shown))
}

// EachTip calls yield with the tips of an episode. It reports whether they are
// complete.
func (f Facts) EachTip(yield func(key TipKey, shown int)) bool {
	for rest := f.Tips; len(rest) > 0; {
		var k TipKey
		if copy(k[:], rest) < len(k) {
			return false
		}
		shown, n := binary.Uvarint(rest[len(k):])
		if n <= 0 || shown > 1<<31 {
			return false
		}
		yield(k, int(shown))
		rest = rest[len(k)+n:]
	}
	return true
}

// factsSum is the checksum of a row of facts.
func factsSum(e Episode) int64 {
	var buffer [256]byte
	row := buffer[:0]
	for _, text := range []string{e.Kind, e.Task, e.Mode, e.Stop} {
		row = append(binary.AppendVarint(row, int64(len(text))), text...)
	}
	success := 0
	if e.Success {
		success = 1
	}
	f := e.Facts
	for _, n := range []int{int(e.Step), e.Group, e.Episode, e.Version, success, f.Turns, f.Cut, f.Empty, f.TipsShown} {
		row = binary.AppendVarint(row, int64(n))
	}
	row = binary.BigEndian.AppendUint64(row, math.Float64bits(e.EnvReturn+0)) // SQLite has no negative zero
	return int64(int32(crc32.ChecksumIEEE(append(row, f.Tips...))))           // four bytes in SQLite
}

// factsSize is what a row of facts takes in bytes, apart from its tips.
const factsSize = 40

const insertFacts = `INSERT OR REPLACE INTO facts SELECT ?, ?, ?, ?, (SELECT id FROM names WHERE name = ?),
	(SELECT id FROM names WHERE name = ?), ?, (SELECT id FROM names WHERE name = ?), ?, ?, ?, ?, ?, ?, ?, ?`

const insertNames = "INSERT OR IGNORE INTO names(name) VALUES(?), (?), (?)"

// saveFacts adds or replaces the facts of an episode.
func saveFacts(ctx context.Context, to execer, e Episode) error {
	return writeFacts(e, func(query string, args ...any) (sql.Result, error) {
		return to.ExecContext(ctx, query, args...)
	})
}

// writeFacts executes the statements that add or replace the facts of an episode.
func writeFacts(e Episode, exec func(query string, args ...any) (sql.Result, error)) error {
	if _, err := exec(insertNames, e.Task, e.Mode, e.Stop); err != nil {
		return err
	}
	f := e.Facts
	_, err := exec(insertFacts, plainValues([]any{e.Kind, e.Step, e.Group, e.Episode, e.Task, e.Mode, e.Version, e.Stop,
		e.EnvReturn, e.Success, f.Turns, f.Cut, f.Empty, f.TipsShown, f.Tips, factsSum(e)})...)
	return err
}
