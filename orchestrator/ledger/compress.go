package ledger

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Texts are compressed with Zstandard and a dictionary of what JSON texts of episodes
// have in common: most of them are so short that half of their bytes are names of
// fields. Arrays of numbers are compressed with raw DEFLATE. The texts of formats 2
// and 3 are read too: a text as it is, or raw DEFLATE.

// dictionary must never change: what is stored cannot be read without it. Another one
// needs another id, beside this one.
//
//go:embed dictionary.txt
var dictionary []byte

// 1 was a draft of this one, in no release; a frame that names it is an error.
const dictionaryID = 2

// zstdMagic begins a Zstandard frame. No DEFLATE stream that empo2 wrote begins with its
// first byte: that would be a stored block whose padding is not zero.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// quickly and well compress short texts and long ones: a run has many episodes of the
// former, and few of the latter, which fill its database.
var (
	quickly = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.SpeedFastest) })
	well    = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.SpeedDefault) })
)

// longText is the length from which a text is long, in bytes.
const longText = 16 << 10

func newEncoder(level zstd.EncoderLevel) *zstd.Encoder {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderCRC(true),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(256<<10), zstd.WithEncoderConcurrency(2),
		zstd.WithEncoderDictRaw(dictionaryID, dictionary))
	if err != nil {
		panic(err) // the options are valid
	}
	return w
}

var decoder = sync.OnceValue(func() *zstd.Decoder {
	r, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxInflated), zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderDictRaw(dictionaryID, dictionary))
	if err != nil {
		panic(err) // the options are valid
	}
	return r
})

// compressText compresses a text. An empty text stays empty.
func compressText(text []byte) []byte {
	if len(text) == 0 {
		return []byte{}
	}
	encoder := quickly()
	if len(text) >= longText {
		encoder = well()
	}
	return encoder.EncodeAll(text, make([]byte, 0, 64+len(text)/4))
}

// deflate compresses numbers. None stay none.
func deflate(numbers []byte) ([]byte, error) {
	var out bytes.Buffer
	if len(numbers) == 0 {
		return []byte{}, nil
	}
	w := writers.Get().(*flate.Writer)
	defer writers.Put(w)
	w.Reset(&out)
	if _, err := w.Write(numbers); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

// writers and readers are used again: each allocates up to a megabyte.
var (
	writers = sync.Pool{New: func() any {
		w, _ := flate.NewWriter(nil, 6) // the level is valid
		return w
	}}
	readers = sync.Pool{New: func() any { return flate.NewReader(nil) }}
)

// maxInflated bounds what a column of a damaged database may become.
const maxInflated = 1 << 30

// inflate returns what compressText or deflate have compressed. A text of an earlier
// format, which SQLite returns as a string, is returned as it is.
func inflate(stored any) ([]byte, error) {
	switch v := stored.(type) {
	case string:
		return []byte(v), nil
	case []byte:
		if len(v) == 0 {
			return nil, nil
		}
		if bytes.HasPrefix(v, zstdMagic) {
			return decoder().DecodeAll(v, nil)
		}
		r := readers.Get().(io.ReadCloser)
		defer readers.Put(r)
		if err := r.(flate.Resetter).Reset(bytes.NewReader(v), nil); err != nil {
			return nil, err
		}
		out, err := io.ReadAll(io.LimitReader(r, maxInflated))
		if err == nil && len(out) == maxInflated {
			err = errors.New("a column is too large")
		}
		return out, err
	}
	return nil, fmt.Errorf("a column holds a %T", stored)
}
