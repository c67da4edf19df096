package ledger

import (
	"encoding/binary"
	"os"
)

// Sizes of the write-ahead log of SQLite, https://www.sqlite.org/fileformat2.html#walformat.
const (
	walHeader   = 32
	frameHeader = 24
	walMagic    = 0x377f0682 // the lowest bit says that checksums are big-endian
)

// damagedWAL says what is lost because a write-ahead log is damaged, "" if
// nothing is.
//
// SQLite reads frames as long as their salt is that of the header and their
// checksum continues that of the frame before. It ignores everything after the
// first frame that does not follow. Such a frame is no damage in itself: a process
// that was killed leaves a torn one, or frames of a transaction that was never
// committed, of which later transactions overwrite a part. But the frame that ends
// a transaction is written last. If it is complete and SQLite does not reach it,
// then a frame before it was damaged, and the transaction is lost without an error.
func damagedWAL(path string) string {
	text, err := os.ReadFile(path)
	if err != nil || len(text) <= walHeader { // a log that was just begun has no transaction
		return ""
	}
	const lost = "the write-ahead log of run.db was damaged: episodes since the last committed step may be lost; " +
		"they are sampled again"
	magic := binary.BigEndian.Uint32(text)
	page := int(binary.BigEndian.Uint32(text[8:]))
	if magic&^1 != walMagic || page < 512 || page > 1<<16 {
		return lost
	}
	sum := walSum{order: binary.LittleEndian}
	if magic&1 == 1 {
		sum.order = binary.BigEndian
	}
	sum.add(text[:24])
	if !sum.is(text[24:]) {
		return lost
	}
	salt, reached := string(text[16:24]), true
	for at := walHeader; at+frameHeader+page <= len(text); at += frameHeader + page {
		frame := text[at : at+frameHeader+page]
		sum.add(frame[:8])
		sum.add(frame[frameHeader:])
		follows := string(frame[8:16]) == salt && sum.is(frame[16:])
		reached = reached && follows
		ends := binary.BigEndian.Uint32(frame[4:]) != 0 // a transaction
		if follows && ends && !reached {
			return lost
		}
		sum.set(frame[16:])
	}
	return ""
}

// walSum is the running checksum of a write-ahead log.
type walSum struct {
	order  binary.ByteOrder
	s0, s1 uint32
}

func (w *walSum) add(text []byte) {
	for ; len(text) >= 8; text = text[8:] {
		w.s0 += w.order.Uint32(text) + w.s1
		w.s1 += w.order.Uint32(text[4:]) + w.s0
	}
}

// is compares the sum with one in a header.
func (w *walSum) is(stored []byte) bool {
	return w.s0 == binary.BigEndian.Uint32(stored) && w.s1 == binary.BigEndian.Uint32(stored[4:])
}

// set continues from the sum in a header.
func (w *walSum) set(stored []byte) {
	w.s0, w.s1 = binary.BigEndian.Uint32(stored), binary.BigEndian.Uint32(stored[4:])
}
