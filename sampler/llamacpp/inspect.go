package llamacpp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Info is the content of a GGUF model's header.
type Info struct {
	Architecture string // for example "llama" or "qwen2"
	Context      int    // tokens that the model was trained with
	Tokenizer    string // for example "gpt2" (byte-pair encoding)
	Vocabulary   int    // tokens of the tokenizer
	Quantisation string // of most weights, for example "Q4_K_M"
	Parameters   int64
	ChatTemplate bool
}

// fileTypes are the common values of general.file_type, llama.cpp's enum
// llama_ftype.
var fileTypes = map[uint32]string{
	0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
	13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}

// Inspect reads the header of a GGUF file that must be a complete model. It compares
// the size of the file with the header.
func Inspect(path string) (Info, error) {
	h, err := readBase(path)
	if err != nil {
		return Info{}, err
	}
	info := Info{Architecture: h.Arch, Context: h.Context, Vocabulary: h.Vocab, Tokenizer: h.Tokenizer,
		ChatTemplate: h.Template}
	info.Quantisation = fileTypes[h.FileType]
	if info.Quantisation == "" {
		info.Quantisation = fmt.Sprintf("file type %d", h.FileType)
	}
	if info.Parameters, err = countParameters(path); err != nil {
		return Info{}, fmt.Errorf("base model %s: %w%s", path, err, wrongBase)
	}
	return info, nil
}

// counter counts the bytes that are read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// countParameters returns the number of values in all tensors. It refuses a file
// that ends before its last tensor begins.
func countParameters(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Stat()
	if err != nil {
		return 0, err
	}
	count := &counter{r: f}
	d := ggufReader{r: bufio.NewReaderSize(count, 1<<16)}
	parameters, last, err := d.tensors()
	end := count.n - int64(d.r.Buffered())
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && parameters > 0 &&
		end+last >= size.Size() {
		return 0, errors.New("the file is cut short")
	}
	return parameters, err
}

// maxGGUFTensors is the largest number of tensors in a header.
const maxGGUFTensors = 1 << 20

// tensors reads the header's list of tensors. It returns the number of their values
// and the largest offset.
func (d ggufReader) tensors() (parameters, last int64, err error) {
	var h gguf
	n, err := d.start(&h)
	if err != nil {
		return 0, 0, err
	}
	if n > maxGGUFTensors {
		return 0, 0, fmt.Errorf("%d tensors", n)
	}
	for range n {
		values, offset, err := d.tensor()
		if err != nil {
			return 0, 0, err
		}
		parameters, last = parameters+values, max(last, offset)
	}
	return parameters, last, nil
}

// tensor reads one entry: name, shape, type, offset.
func (d ggufReader) tensor() (values, offset int64, err error) {
	if _, err := d.text(); err != nil {
		return 0, 0, err
	}
	dimensions, err := d.uint32()
	if err != nil {
		return 0, 0, err
	}
	if dimensions > 8 {
		return 0, 0, fmt.Errorf("a tensor of %d dimensions", dimensions)
	}
	values = 1
	for range dimensions {
		n, err := d.uint64()
		if err != nil {
			return 0, 0, err
		}
		values *= int64(n)
	}
	var tail struct {
		Type   uint32
		Offset uint64
	}
	err = binary.Read(d.r, binary.LittleEndian, &tail)
	return values, int64(tail.Offset), err
}
