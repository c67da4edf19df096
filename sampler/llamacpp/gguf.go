package llamacpp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// gguf has the fields of a GGUF header that are used.
type gguf struct {
	Arch    string // general.architecture
	Type    string // general.type: "model", "adapter"; empty in older files
	Adapter string // adapter.type
	Context int    // tokens that the model was trained with; 0: unknown
	Vocab   int    // tokens of the tokenizer; 0: none

	FileType  *uint32 // general.file_type: the quantisation of most weights; nil: absent
	Tokenizer string  // tokenizer.ggml.model
	Split     string  // tokenizer.ggml.pre: how text is split before byte-pair encoding
	Template  bool    // it has a chat template
}

// The types of GGUF values, as ggml/include/gguf.h numbers them.
const (
	ggufString = 8
	ggufArray  = 9
)

// ggufSizes are the bytes of the scalar types.
var ggufSizes = map[uint32]int64{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

const (
	maxGGUFKeys   = 1 << 16
	maxGGUFString = 1 << 20 // bytes of a string whose value is used
)

// errCutShort means that a file ends before its content does.
var errCutShort = errors.New("the file is cut short")

// readGGUF reads a header.
func readGGUF(path string) (gguf, error) {
	f, err := os.Open(path)
	if err != nil {
		return gguf{}, err
	}
	defer f.Close()
	d := ggufReader{r: bufio.NewReaderSize(f, 1<<16)}
	h, err := d.header()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCutShort
	}
	return h, err
}

type ggufReader struct {
	r *bufio.Reader
}

func (d ggufReader) header() (h gguf, err error) {
	_, err = d.start(&h)
	return h, err
}

// start reads everything before the list of tensors. It returns their number.
func (d ggufReader) start(h *gguf) (tensors uint64, err error) {
	var start struct {
		Magic         [4]byte
		Version       uint32
		Tensors, Keys uint64
	}
	if err := binary.Read(d.r, binary.LittleEndian, &start); err != nil {
		return 0, err
	}
	switch {
	case string(start.Magic[:]) != "GGUF":
		return 0, errors.New("not a GGUF file")
	case start.Version != 2 && start.Version != 3:
		return 0, fmt.Errorf("GGUF version %d: only 2 and 3 are supported", start.Version)
	case start.Keys > maxGGUFKeys:
		return 0, fmt.Errorf("%d keys", start.Keys)
	}
	for range start.Keys {
		if err := d.pair(h); err != nil {
			return 0, err
		}
	}
	if h.Arch == "" {
		return 0, errors.New("it has no general.architecture")
	}
	return start.Tensors, nil
}

// pair reads one key and its value. It stores the values of gguf.
func (d ggufReader) pair(h *gguf) error {
	key, err := d.text()
	if err != nil {
		return err
	}
	kind, err := d.uint32()
	if err != nil {
		return err
	}
	strings := map[string]*string{
		"general.architecture": &h.Arch, "general.type": &h.Type, "adapter.type": &h.Adapter,
		"tokenizer.ggml.model": &h.Tokenizer, "tokenizer.ggml.pre": &h.Split,
	}
	switch {
	case kind == ggufString && strings[key] != nil:
		*strings[key], err = d.text()
		return err
	case kind == 4 && key == h.Arch+".context_length":
		n, err := d.uint32()
		h.Context = int(n)
		return err
	case kind == 4 && key == "general.file_type":
		n, err := d.uint32()
		h.FileType = &n
		return err
	case key == "tokenizer.chat_template":
		h.Template = true
	}
	n, err := d.skip(kind)
	if key == "tokenizer.ggml.tokens" {
		h.Vocab = int(n)
	}
	return err
}

// skip skips a value. It returns the length of an array.
func (d ggufReader) skip(kind uint32) (uint64, error) {
	switch kind {
	case ggufString:
		n, err := d.uint64()
		if err != nil {
			return 0, err
		}
		return 0, d.discard(n, 1)
	case ggufArray:
		return d.skipArray()
	}
	size, ok := ggufSizes[kind]
	if !ok {
		return 0, fmt.Errorf("unknown value type %d", kind)
	}
	return 0, d.discard(1, size)
}

func (d ggufReader) skipArray() (uint64, error) {
	kind, err := d.uint32()
	if err != nil {
		return 0, err
	}
	n, err := d.uint64()
	if err != nil {
		return 0, err
	}
	if size, ok := ggufSizes[kind]; ok {
		return n, d.discard(n, size)
	}
	if kind != ggufString {
		return 0, fmt.Errorf("array of type %d", kind)
	}
	for range n {
		if _, err := d.skip(kind); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (d ggufReader) discard(n uint64, size int64) error {
	if n > 1<<40 {
		return fmt.Errorf("a value of %d elements", n)
	}
	_, err := io.CopyN(io.Discard, d.r, int64(n)*size)
	return err
}

func (d ggufReader) text() (string, error) {
	n, err := d.uint64()
	if err != nil {
		return "", err
	}
	if n > maxGGUFString {
		return "", fmt.Errorf("a string of %d bytes", n)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(d.r, b)
	return string(b), err
}

func (d ggufReader) uint32() (n uint32, err error) {
	err = binary.Read(d.r, binary.LittleEndian, &n)
	return n, err
}

func (d ggufReader) uint64() (n uint64, err error) {
	err = binary.Read(d.r, binary.LittleEndian, &n)
	return n, err
}
