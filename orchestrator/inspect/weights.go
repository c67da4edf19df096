package inspect

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// readWeights counts the parameters in the headers of the safetensors files, and
// checks that the weights are complete.
func (m *Model) readWeights() error {
	files, index, err := m.weightFiles()
	if err != nil {
		return err
	}
	if err := checkShards(files); err != nil {
		return err
	}
	tensors := map[string]string{} // name → dtype
	for _, name := range files {
		n, err := m.countSafetensors(name, tensors)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing\n  hint: the index lists it: download it into the folder", name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		m.Parameters += n
	}
	if m.Quantisation == "" {
		m.Quantisation = m.fileQuantisation(tensors)
	}
	if m.Quantisation != "" {
		return nil // other tensors, and not the same in all layers
	}
	return m.checkTensors(index, tensors)
}

// The names under which transformers looks for weights, in this order: one
// file, or the list of several.
const (
	oneFile      = "model.safetensors"
	weightsIndex = "model.safetensors.index.json"
)

// weightFiles are the names of the files with weights, and the index, which has the
// file of each tensor; nil: there is one file and no index.
func (m *Model) weightFiles() (files []string, index map[string]string, err error) {
	if _, err := os.Stat(filepath.Join(m.Path, oneFile)); err == nil {
		return []string{oneFile}, nil, nil
	}
	text, err := m.read(weightsIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, m.noWeights()
	}
	if err != nil {
		return nil, nil, err
	}
	return m.indexed(text)
}

// noWeights is the error for a folder with neither the one file nor an index.
func (m *Model) noWeights() error {
	entries, err := os.ReadDir(m.Path)
	if err != nil {
		return err
	}
	hint := folderHint
	for _, e := range entries {
		switch name := e.Name(); filepath.Ext(name) {
		case ".safetensors":
			return fmt.Errorf("it has %s, but neither %s nor %s\n  hint: download the index and all files that it "+
				"lists; if there is only one file, name it %s", name, oneFile, weightsIndex, oneFile)
		case ".bin":
			hint = "\n  hint: it has " + name + "; " +
				"AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR) writes *.safetensors"
		}
	}
	return fmt.Errorf("it has no *.safetensors%s", hint)
}

// indexed are the files that the text of an index lists, sorted, and the file of
// each tensor.
func (m *Model) indexed(text []byte) ([]string, map[string]string, error) {
	var index struct {
		Files map[string]string `json:"weight_map"` // tensor → file
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, nil, fmt.Errorf("%s: %w%s", weightsIndex, safetext.JSONError(err), m.downloadHint(text))
	}
	var files []string
	for tensor, name := range index.Files {
		if !filepath.IsLocal(name) {
			return nil, nil, fmt.Errorf("%s: tensor %s is in %q, outside of the folder%s", weightsIndex, tensor, name,
				m.downloadHint(text))
		}
		files = append(files, name)
	}
	slices.Sort(files)
	if files = slices.Compact(files); len(files) == 0 {
		return nil, nil, fmt.Errorf("%s lists no file%s", weightsIndex, m.downloadHint(text))
	}
	return files, index.Files, nil
}

// maxSafetensorsHeader is the format's own limit in bytes.
const maxSafetensorsHeader = 100 << 20

// countSafetensors returns the number of values in a file, and adds the dtypes of its
// tensors to a map. It reads only the header: a length of 8 bytes, then JSON with
// dtype, shape and offsets of each tensor.
func (m *Model) countSafetensors(name string, dtypes map[string]string) (int64, error) {
	path := filepath.Join(m.Path, name)
	info, err := os.Stat(path)
	if err != nil {
		return 0, cause(err)
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("not a file%s", folderHint)
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("%w\n  hint: check its owner and permissions", cause(err))
	}
	defer f.Close()
	n, err := readSafetensors(f, dtypes)
	if err != nil {
		start := make([]byte, 32)
		k, _ := f.ReadAt(start, 0) // an empty or unreadable start is no pointer
		return 0, fmt.Errorf("%w%s", err, m.downloadHint(start[:k]))
	}
	return n, nil
}

func readSafetensors(f *os.File, dtypes map[string]string) (int64, error) {
	var length uint64
	err := binary.Read(f, binary.LittleEndian, &length)
	switch {
	case errors.Is(err, io.EOF):
		return 0, errors.New("the file is empty")
	case err != nil || length > maxSafetensorsHeader:
		return 0, errors.New("not a safetensors file")
	}
	if size, err := f.Stat(); err == nil && int64(length) > size.Size()-8 {
		return 0, errors.New("the file is cut short")
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(f, text); err != nil {
		return 0, errors.New("the file is cut short")
	}
	var tensors map[string]json.RawMessage
	if err := json.Unmarshal(text, &tensors); err != nil {
		return 0, errors.New("not a safetensors file")
	}
	return addTensors(f, int64(length), tensors, dtypes)
}

func addTensors(f *os.File, header int64, tensors map[string]json.RawMessage, dtypes map[string]string) (
	int64, error) {
	size, err := f.Stat()
	if err != nil {
		return 0, err
	}
	total, end := int64(0), int64(0)
	for name, text := range tensors {
		if name == "__metadata__" {
			continue
		}
		var tensor struct {
			Dtype   string   `json:"dtype"`
			Shape   []int64  `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(text, &tensor); err != nil {
			return 0, fmt.Errorf("tensor %s: %w", name, safetext.JSONError(err))
		}
		n, err := values(tensor.Shape, 8*size.Size())
		if err != nil || tensor.Offsets[0] < 0 || tensor.Offsets[1] < tensor.Offsets[0] {
			return 0, fmt.Errorf("tensor %s has the shape %d and the offsets %d, which are not possible",
				name, tensor.Shape, tensor.Offsets)
		}
		total, end, dtypes[name] = total+n, max(end, tensor.Offsets[1]), tensor.Dtype
	}
	if end > size.Size()-8-header {
		return 0, errors.New("the file is cut short")
	}
	return total, nil
}

// values is the number of values of a shape, which must not exceed most.
func values(shape []int64, most int64) (int64, error) {
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > 0 && n > most/d {
			return 0, errors.New("too many values")
		}
		n *= d
	}
	return n, nil
}
