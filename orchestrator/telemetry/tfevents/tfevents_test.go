package tfevents

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// The CRC-32C of 32 zeros is 8a9136aa (RFC 3720, B.4). The mask rotates it by 15 bits and
// adds a constant.
func TestChecksum(t *testing.T) {
	if got := masked(make([]byte, 32)); got != 0xfd7fffa {
		t.Errorf("%08x", got)
	}
}

// The first record of a file, byte by byte: an Event with a time of 1 s, step 0 and
// the version of the format.
func TestFirstRecord(t *testing.T) {
	var b bytes.Buffer
	if _, err := NewWriter(&b, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	data := "09000000000000f03f" + "1000" + "1a0d627261696e2e4576656e743a32"
	got := hex.EncodeToString(b.Bytes()[12 : 12+26])
	if n := binary.LittleEndian.Uint64(b.Bytes()); n != 26 || got != data {
		t.Errorf("%d bytes: %s, want %s", n, got, data)
	}
}

// What is written is read back: each record has its checksums, and each number its
// tag, step and time.
func TestNumbersAreReadBack(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, time.Unix(10, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(time.Unix(20, 5e8), 7, []Value{{Tag: "a/b", Number: 0.5}, {Tag: "c", Number: -3}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(time.Unix(30, 0), 8, []Value{{Tag: "note", Text: "é"}}); err != nil {
		t.Fatal(err)
	}
	records := split(t, b.Bytes())
	if len(records) != 4 {
		t.Fatalf("%d records", len(records))
	}
	event := fields(t, records[2])
	if at := math.Float64frombits(event[eventTime][0].(uint64)); at != 20.5 || event[eventStep][0].(uint64) != 7 {
		t.Errorf("time %v, step %v", at, event[eventStep])
	}
	values := fields(t, event[eventSummary][0].([]byte))[summaryValue]
	if len(values) != 2 {
		t.Fatalf("%d values", len(values))
	}
	first := fields(t, values[0].([]byte))
	if string(first[valueTag][0].([]byte)) != "a/b" || math.Float32frombits(first[valueNumber][0].(uint32)) != 0.5 {
		t.Errorf("%v", first)
	}
	session := fields(t, records[1])[eventSession][0].([]byte)
	if fields(t, session)[sessionStatus][0].(uint64) != sessionStart {
		t.Errorf("%v", session)
	}
}

// split checks the records of a file and returns their data.
func split(t *testing.T, file []byte) (all [][]byte) {
	t.Helper()
	for len(file) > 0 {
		n := binary.LittleEndian.Uint64(file)
		if got := binary.LittleEndian.Uint32(file[8:]); got != masked(file[:8]) {
			t.Fatal("a length has another checksum")
		}
		data := file[12 : 12+n]
		if got := binary.LittleEndian.Uint32(file[12+n:]); got != masked(data) {
			t.Fatal("a record has another checksum")
		}
		all, file = append(all, data), file[16+n:]
	}
	return all
}

// fields parses a message.
func fields(t *testing.T, data []byte) map[protowire.Number][]any {
	t.Helper()
	out := map[protowire.Number][]any{}
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		data = data[n:]
		var v any
		switch kind {
		case protowire.VarintType:
			v, n = consumed(protowire.ConsumeVarint(data))
		case protowire.Fixed64Type:
			v, n = consumed(protowire.ConsumeFixed64(data))
		case protowire.Fixed32Type:
			v, n = consumed(protowire.ConsumeFixed32(data))
		default:
			v, n = consumed(protowire.ConsumeBytes(data))
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		out[number], data = append(out[number], v), data[n:]
	}
	return out
}

func consumed[T any](v T, n int) (any, int) { return v, n }
