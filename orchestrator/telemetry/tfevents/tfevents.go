// Package tfevents writes and reads the event files of TensorBoard. No Go library
// for them is maintained, and the format is small:
//
//   - A file is a list of records: the length (8 bytes, little-endian), its checksum,
//     the data, and its checksum. A checksum is a masked CRC-32C (TensorFlow,
//     core/lib/io/record_writer.h and core/lib/hash/crc32c.h).
//   - The data is a protocol buffer of the type Event (tensorboard/compat/proto:
//     event.proto, summary.proto, tensor.proto). Its fields are written with protowire.
//
// Start with [NewWriter].
package tfevents

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// FileName is the name of an event file that was begun at a time. TensorBoard reads
// the files of a folder in the order of their names.
func FileName(at time.Time) string { return fmt.Sprintf("events.out.tfevents.%010d.empo2", at.Unix()) }

// A Value is one value of a step: a number or a text in Markdown.
type Value struct {
	Tag    string
	Number float64
	Text   string // if it is not empty, the value is this text
}

// Writer writes an event file. It is not safe for concurrent use.
type Writer struct{ w io.Writer }

// NewWriter begins a file. It tells TensorBoard to forget what an earlier file of the
// folder has said.
func NewWriter(w io.Writer, at time.Time) (*Writer, error) {
	out := &Writer{w}
	version := protowire.AppendTag(nil, eventVersion, protowire.BytesType)
	if err := out.event(at, 0, protowire.AppendString(version, "brain.Event:2")); err != nil {
		return nil, err
	}
	session := protowire.AppendVarint(protowire.AppendTag(nil, sessionStatus, protowire.VarintType), sessionStart)
	return out, out.event(at, 0, message(nil, eventSession, session))
}

// Write adds the values of a step.
func (w *Writer) Write(at time.Time, step int64, values []Value) error {
	var summary []byte
	for _, v := range values {
		summary = message(summary, summaryValue, v.encode())
	}
	return w.event(at, step, message(nil, eventSummary, summary))
}

// The numbers of fields, and of values of enumerations.
const (
	eventTime     = 1 // double, seconds since 1970
	eventStep     = 2
	eventVersion  = 3
	eventSummary  = 5
	eventSession  = 7
	sessionStatus = 1
	sessionStart  = 1
	summaryValue  = 1
	valueTag      = 1
	valueNumber   = 2 // float
	valueTensor   = 8
	valueMetadata = 9
	metadataOf    = 1 // plugin data
	pluginName    = 1
	tensorType    = 1
	tensorShape   = 2
	tensorStrings = 8
	shapeDim      = 2
	dimSize       = 1
	typeString    = 7
)

func (w *Writer) event(at time.Time, step int64, what []byte) error {
	data := protowire.AppendTag(nil, eventTime, protowire.Fixed64Type)
	data = protowire.AppendFixed64(data, math.Float64bits(float64(at.UnixNano())/1e9))
	data = protowire.AppendTag(data, eventStep, protowire.VarintType)
	data = protowire.AppendVarint(data, uint64(step))
	_, err := w.w.Write(frame(append(data, what...)))
	return err
}

func (v Value) encode() []byte {
	out := protowire.AppendString(protowire.AppendTag(nil, valueTag, protowire.BytesType), v.Tag)
	if v.Text == "" {
		out = protowire.AppendTag(out, valueNumber, protowire.Fixed32Type)
		return protowire.AppendFixed32(out, math.Float32bits(float32(v.Number)))
	}
	plugin := protowire.AppendString(protowire.AppendTag(nil, pluginName, protowire.BytesType), "text")
	out = message(out, valueMetadata, message(nil, metadataOf, plugin))
	size := protowire.AppendVarint(protowire.AppendTag(nil, dimSize, protowire.VarintType), 1)
	tensor := protowire.AppendVarint(protowire.AppendTag(nil, tensorType, protowire.VarintType), typeString)
	tensor = message(tensor, tensorShape, message(nil, shapeDim, size))
	tensor = protowire.AppendString(protowire.AppendTag(tensor, tensorStrings, protowire.BytesType), v.Text)
	return message(out, valueTensor, tensor)
}

// message appends a field that is a message.
func message(out []byte, field protowire.Number, data []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(out, field, protowire.BytesType), data)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is the checksum of a record. It is masked, because a CRC of data that holds
// CRCs is weak.
func masked(data []byte) uint32 {
	crc := crc32.Checksum(data, castagnoli)
	return (crc>>15 | crc<<17) + 0xa282ead8
}

// frame makes a record of data.
func frame(data []byte) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	out = binary.LittleEndian.AppendUint32(out, masked(out))
	out = append(out, data...)
	return binary.LittleEndian.AppendUint32(out, masked(data))
}
