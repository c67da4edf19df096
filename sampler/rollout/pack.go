package rollout

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/empo2/empo2/sampler"
)

// Packed is a trajectory as it is stored: text and numbers apart, and no row twice.
type Packed struct {
	JSON []byte // the trajectory without its arrays of numbers
	// Tokens are the ids and the loss masks, as varints: for each turn its ids and
	// the number of its log-probs, then the same for the tip, then the rows with
	// tips, then those without. The log-probs of rows are those of the turns.
	Tokens   []byte
	Logprobs []byte // float32, little-endian
}

// packVersion begins Packed.Tokens.
const packVersion = 1

// How a list of rows is stored.
const (
	rowsDerived  = iota // their log-probs are those of the turns, in order
	rowsExplicit        // their log-probs are stored
	rowsEqual           // they equal the rows with tips
)

// Pack packs a trajectory. [Unpack] returns an equal one.
func Pack(t Trajectory) (Packed, error) {
	p := packer{tokens: []byte{packVersion}}
	p.count(len(t.Turns))
	bare := t
	bare.Turns = slices.Clone(t.Turns)
	for i, turn := range t.Turns {
		p.sampled(turn.IDs, turn.Logprobs)
		bare.Turns[i].IDs, bare.Turns[i].Logprobs = nil, nil
	}
	p.sampled(t.TipIDs, t.TipLogprobs)
	p.rows(t.RowsWithTips, t.Turns)
	if equalRows(t.RowsWithTips, t.RowsWithoutTips) {
		p.tokens = append(p.tokens, rowsEqual)
	} else {
		p.rows(t.RowsWithoutTips, t.Turns)
	}
	bare.TipIDs, bare.TipLogprobs, bare.RowsWithTips, bare.RowsWithoutTips = nil, nil, nil, nil
	text, err := json.Marshal(bare)
	return Packed{JSON: text, Tokens: p.tokens, Logprobs: p.logprobs}, err
}

// Unpack returns the trajectory that was packed. A trajectory without tokens is
// complete in its JSON.
func Unpack(p Packed) (Trajectory, error) {
	var t Trajectory
	if err := json.Unmarshal(p.JSON, &t); err != nil || len(p.Tokens) == 0 {
		return t, err
	}
	u := unpacker{tokens: p.Tokens, logprobs: p.Logprobs}
	if version := u.uint(); version != packVersion {
		return t, fmt.Errorf("the numbers of the episode have format %d, this empo2 reads %d", version, packVersion)
	}
	if n := u.uint(); n != uint64(len(t.Turns)) {
		return t, fmt.Errorf("%d turns with numbers of %d", len(t.Turns), n)
	}
	for i := range t.Turns {
		t.Turns[i].IDs, t.Turns[i].Logprobs = u.sampled()
	}
	t.TipIDs, t.TipLogprobs = u.sampled()
	t.RowsWithTips = u.rows(t.Turns, nil)
	t.RowsWithoutTips = u.rows(t.Turns, t.RowsWithTips)
	if u.err == nil && len(u.tokens)+len(u.logprobs) > 0 {
		u.err = errNumbers
	}
	return t, u.err
}

func equalRows(a, b []Row) bool {
	return slices.EqualFunc(a, b, func(x, y Row) bool {
		return slices.Equal(x.Tokens, y.Tokens) && slices.Equal(x.LossMask, y.LossMask) &&
			slices.Equal(x.Logprobs, y.Logprobs) && x.WithoutLogprobs == y.WithoutLogprobs
	})
}

// deriveLogprobs sets the log-probs of rows to those of the turns' sampled tokens.
// It reports whether the number of tokens agrees.
func deriveLogprobs(rows []Row, turns []Turn) bool {
	var known []float32
	for _, turn := range turns {
		for _, v := range turn.Logprobs {
			if finite(float64(v)) {
				known = append(known, v)
			}
		}
	}
	for i := range rows {
		r := &rows[i]
		r.Logprobs = make([]float32, len(r.Tokens))
		for k, trained := range r.LossMask {
			if !trained || r.WithoutLogprobs {
				continue
			}
			if len(known) == 0 {
				return false
			}
			r.Logprobs[k], known = known[0], known[1:]
		}
	}
	return true
}

// A packer appends numbers.
type packer struct{ tokens, logprobs []byte }

func (p *packer) count(n int) { p.tokens = binary.AppendUvarint(p.tokens, uint64(n)) }

// sampled appends ids, which may be nil, and their log-probs.
func (p *packer) sampled(ids []int32, logprobs sampler.Logprobs) {
	if ids == nil {
		p.count(0)
	} else {
		p.count(len(ids) + 1)
	}
	p.ids(ids)
	if logprobs == nil {
		p.count(0)
	} else {
		p.count(len(logprobs) + 1)
	}
	p.floats(logprobs)
}

func (p *packer) ids(ids []int32) {
	for _, id := range ids {
		p.tokens = binary.AppendUvarint(p.tokens, uint64(uint32(id)))
	}
}

func (p *packer) floats(values []float32) {
	for _, v := range values {
		p.logprobs = binary.LittleEndian.AppendUint32(p.logprobs, math.Float32bits(v))
	}
}

func (p *packer) rows(rows []Row, turns []Turn) {
	derived := slices.Clone(rows)
	how := byte(rowsExplicit)
	if deriveLogprobs(derived, turns) && equalRows(derived, rows) {
		how = rowsDerived
	}
	p.tokens = append(p.tokens, how)
	p.count(len(rows))
	for _, r := range rows {
		without := 0
		if r.WithoutLogprobs {
			without = 1
		}
		p.count(without)
		p.count(len(r.Tokens))
		p.ids(r.Tokens)
		for at, value := 0, false; at < len(r.LossMask); value = !value { // runs of equal values
			n := at
			for n < len(r.LossMask) && r.LossMask[n] == value {
				n++
			}
			p.count(n - at)
			at = n
		}
		if how == rowsExplicit {
			p.floats(r.Logprobs)
		}
	}
}

// errNumbers is the error of numbers that end too early or too late.
var errNumbers = errors.New("the numbers of the episode do not fit its turns")

// An unpacker takes numbers from their beginning. After an error it returns zeros.
type unpacker struct {
	tokens, logprobs []byte
	err              error
}

func (u *unpacker) uint() uint64 {
	v, n := binary.Uvarint(u.tokens)
	if n <= 0 {
		u.err, u.tokens = errNumbers, nil
		return 0
	}
	u.tokens = u.tokens[n:]
	return v
}

// length returns a number of items, each of which takes at least size bytes of the
// rest.
func (u *unpacker) length(rest []byte, size int) int {
	n := u.uint()
	if n > uint64(len(rest)/size+1) {
		u.err = errNumbers
		return 0
	}
	return int(n)
}

func (u *unpacker) ids(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(uint32(u.uint()))
	}
	return ids
}

func (u *unpacker) floats(n int) []float32 {
	if 4*n > len(u.logprobs) {
		u.err = errNumbers
		return nil
	}
	values := make([]float32, n)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(u.logprobs[4*i:]))
	}
	u.logprobs = u.logprobs[4*n:]
	return values
}

func (u *unpacker) sampled() (ids []int32, logprobs sampler.Logprobs) {
	if n := u.length(u.tokens, 1); n > 0 {
		ids = u.ids(n - 1)
	}
	if n := u.length(u.logprobs, 4); n > 0 {
		logprobs = u.floats(n - 1)
	}
	return ids, logprobs
}

// rows returns a list of rows. equal are those that it may be equal to.
func (u *unpacker) rows(turns []Turn, equal []Row) []Row {
	how := u.uint()
	if how == rowsEqual {
		return equal
	}
	rows := make([]Row, u.length(u.tokens, 1))
	for i := range rows {
		r := &rows[i]
		r.WithoutLogprobs = u.uint() == 1
		r.Tokens = u.ids(u.length(u.tokens, 1))
		r.LossMask = make([]bool, 0, len(r.Tokens))
		for value := false; len(r.LossMask) < len(r.Tokens) && u.err == nil; value = !value {
			for range min(u.uint(), uint64(len(r.Tokens)-len(r.LossMask))) {
				r.LossMask = append(r.LossMask, value)
			}
		}
		if how == rowsExplicit {
			r.Logprobs = u.floats(len(r.Tokens))
		}
	}
	if how == rowsDerived && !deriveLogprobs(rows, turns) && u.err == nil {
		u.err = errNumbers
	}
	if len(rows) == 0 {
		return nil
	}
	return rows
}
