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
// nothing is. SQLite ignores everything after the first bad frame, so the
// transactions in it are lost without an error.
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
	w := walSum{order: binary.LittleEndian}
	if magic&1 == 1 {
		w.order = binary.BigEndian
	}
	w.add(text[:24])
	if w.s0 != binary.BigEndian.Uint32(text[24:]) || w.s1 != binary.BigEndian.Uint32(text[28:]) {
		return lost
	}
	salt, broken := string(text[16:24]), false
	for at := walHeader; at+frameHeader+page <= len(text); at += frameHeader + page {
		frame := text[at : at+frameHeader+page]
		if string(frame[8:16]) != salt { // of the log before this one, unless valid frames follow
			broken = true
			continue
		}
		w.add(frame[:8])
		w.add(frame[frameHeader:])
		if broken || w.s0 != binary.BigEndian.Uint32(frame[16:]) || w.s1 != binary.BigEndian.Uint32(frame[20:]) {
			return lost
		}
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
