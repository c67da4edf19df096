package llamacpp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
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

// tensorTypes are the values of ggml's enum ggml_type.
var tensorTypes = map[uint32]string{
	0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
	12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
	21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
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
	count, err := countParameters(path)
	if err != nil {
		return Info{}, baseError(path, err)
	}
	info.Parameters, info.Quantisation = count.all, h.quantisation(count)
	return info, nil
}

// quantisation names the type of most weights. The header's name is finer than
// the tensors' types, but may be absent or wrong.
func (h gguf) quantisation(p parameters) string {
	most := p.most()
	if h.FileType == nil {
		return most
	}
	name := fileTypes[*h.FileType]
	if most != "" && baseType(most) != baseType(name) {
		return most
	}
	if name == "" {
		return fmt.Sprintf("file type %d", *h.FileType)
	}
	return name
}

// baseType is the part of a type's name that a tensor's type and a file's type
// share, for example "Q4" of "Q4_K_M".
func baseType(name string) string {
	name, _, _ = strings.Cut(name, "_")
	return name
}

// rounded says how weights of a type differ from a trainer's, for a message;
// empty: they do not.
func rounded(quantisation string) string {
	switch quantisation {
	case "", "F32":
		return ""
	case "F16", "BF16":
		return "the served base is in half precision: " + quantisation
	}
	return "the served base is quantised: " + quantisation
}

// rounding says how the values that the server computes with differ from a
// trainer's, for a message; empty: they do not.
func (i Info) rounding() string {
	if text := rounded(i.Quantisation); text != "" || !strings.HasPrefix(i.Architecture, "gemma") {
		return text
	}
	return "llama.cpp reads the activation of " + i.Architecture + " (GELU) from a table in half precision"
}

// parameters counts the values of a file's tensors.
type parameters struct {
	all    int64
	byType map[uint32]int64 // by ggml's type
}

// most returns the name of the type that most values have, empty if there are
// none.
func (p parameters) most() string {
	var best uint32
	for kind, n := range p.byType {
		if n > p.byType[best] || n == p.byType[best] && kind < best {
			best = kind
		}
	}
	if p.byType[best] == 0 {
		return ""
	}
	if name := tensorTypes[best]; name != "" {
		return name
	}
	return fmt.Sprintf("type %d", best)
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

// countParameters counts the values in all tensors. It refuses a file that ends
// before its last tensor begins.
func countParameters(path string) (parameters, error) {
	f, err := os.Open(path)
	if err != nil {
		return parameters{}, err
	}
	defer f.Close()
	size, err := f.Stat()
	if err != nil {
		return parameters{}, err
	}
	count := &counter{r: f}
	d := ggufReader{r: bufio.NewReaderSize(count, 1<<16)}
	found, last, err := d.tensors()
	end := count.n - int64(d.r.Buffered())
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && found.all > 0 &&
		end+last >= size.Size() {
		return parameters{}, errCutShort
	}
	return found, err
}

// maxGGUFTensors is the largest number of tensors in a header, and maxGGUFValues of
// the values in one tensor.
const (
	maxGGUFTensors = 1 << 20
	maxGGUFValues  = 1 << 42
)

// tensors reads the header's list of tensors. It returns their values and the
// largest offset.
func (d ggufReader) tensors() (found parameters, last int64, err error) {
	var h gguf
	n, err := d.start(&h)
	if err != nil {
		return found, 0, err
	}
	if n > maxGGUFTensors {
		return found, 0, fmt.Errorf("%d tensors", n)
	}
	found.byType = map[uint32]int64{}
	for range n {
		offset, err := d.tensor(&found)
		if err != nil {
			return found, 0, err
		}
		last = max(last, offset)
	}
	return found, last, nil
}

// tensor reads one entry: name, shape, type, offset. It adds the values to found.
func (d ggufReader) tensor(found *parameters) (offset int64, err error) {
	if _, err := d.text(); err != nil {
		return 0, err
	}
	dimensions, err := d.uint32()
	if err != nil {
		return 0, err
	}
	if dimensions > 8 {
		return 0, fmt.Errorf("a tensor of %d dimensions", dimensions)
	}
	values := int64(1)
	for range dimensions {
		n, err := d.uint64()
		if err != nil {
			return 0, err
		}
		if n > maxGGUFValues || n > 0 && values > maxGGUFValues/int64(n) {
			return 0, fmt.Errorf("a tensor of more than %d values", int64(maxGGUFValues))
		}
		values *= int64(n)
	}
	var tail struct {
		Type   uint32
		Offset uint64
	}
	if err = binary.Read(d.r, binary.LittleEndian, &tail); err == nil && tail.Offset > 1<<50 {
		return 0, fmt.Errorf("a tensor at the offset %d", tail.Offset)
	}
	found.all += values
	found.byType[tail.Type] += values
	return int64(tail.Offset), err
}
