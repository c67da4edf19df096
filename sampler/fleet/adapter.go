package fleet

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/sampler"
)

// adapterDir returns the checked directory of a version, empty for the base
// model. Some servers accept the weights of another base model and crash later.
func (b *Backend) adapterDir(a sampler.Adapter) (string, error) {
	c := b.probe.Capabilities
	switch {
	case a.Version == 0:
		return "", nil
	case a.Version < 0:
		return "", fmt.Errorf("version %d is negative", a.Version)
	case c.Adapters != "runtime":
		return "", fmt.Errorf("the server cannot load adapters\n  hint: %s", c.Hints["adapters"])
	case a.Dir == "":
		return "", errors.New("the adapter has no PEFT directory\n  hint: the trainer must write adapters as PEFT")
	}
	dir, err := filepath.Abs(a.Dir)
	if err != nil {
		return "", err
	}
	var config struct {
		Rank int `json:"r"`
	}
	if err := readJSON(filepath.Join(dir, "adapter_config.json"), &config); err != nil {
		return "", fmt.Errorf("adapter %s: %w", dir, err)
	}
	if c.MaxRank > 0 && config.Rank > c.MaxRank {
		return "", fmt.Errorf("adapter %s has rank %d, the server takes %d\n"+
			"  hint: %s", dir, config.Rank, c.MaxRank, c.Hints["max_rank"])
	}
	if err := checkWeights(filepath.Join(dir, "adapter_model.safetensors"), b.probe.Root); err != nil {
		return "", fmt.Errorf("adapter %s: %w", dir, err)
	}
	return dir, nil
}

func readJSON(path string, out any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), safetext.JSONError(err))
	}
	return nil
}

// A tensor is an entry of a safetensors header.
type tensor struct {
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// maxHeader is the format's limit of a safetensors header in bytes.
const maxHeader = 100 << 20

// readTensors reads the header of a safetensors file: a length of eight bytes,
// little endian, and JSON. The file must have the length that the header says.
func readTensors(path string) (map[string]tensor, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var length uint64
	if err := binary.Read(f, binary.LittleEndian, &length); err != nil || length > maxHeader {
		return nil, fmt.Errorf("%s is not a safetensors file", filepath.Base(path))
	}
	if int64(length) > info.Size()-8 {
		return nil, fmt.Errorf("%s is cut short: it has %d bytes, its header alone %d",
			filepath.Base(path), info.Size(), length)
	}
	header := make([]byte, length)
	if _, err := io.ReadFull(f, header); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(header, &entries); err != nil {
		return nil, fmt.Errorf("%s is not a safetensors file: %w", filepath.Base(path), safetext.JSONError(err))
	}
	delete(entries, "__metadata__")
	tensors, end := map[string]tensor{}, int64(0)
	for name, text := range entries {
		var t tensor
		if err := json.Unmarshal(text, &t); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", filepath.Base(path), name, safetext.JSONError(err))
		}
		tensors[name], end = t, max(end, t.Offsets[1])
	}
	if want := 8 + int64(length) + end; info.Size() != want {
		return nil, fmt.Errorf("%s is cut short: %d of %d bytes", filepath.Base(path), info.Size(), want)
	}
	return tensors, nil
}

// hiddenInput matches the modules whose input is the model's hidden state.
var hiddenInput = regexp.MustCompile(`layers\.(\d+)\.(?:self_attn\.[qkv]_proj|mlp\.(?:gate|up)_proj)\.lora_A\.weight$`)

// checkWeights refuses a damaged file. It also refuses weights of another base
// model, if the server's model folder can be read from here. A missing file is
// not an error, because servers know more formats.
func checkWeights(path, root string) error {
	tensors, err := readTensors(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var base struct {
		Hidden int `json:"hidden_size"`
		Layers int `json:"num_hidden_layers"`
	}
	if readJSON(filepath.Join(root, "config.json"), &base) != nil || base.Hidden == 0 || base.Layers == 0 {
		return nil
	}
	for name, t := range tensors {
		m := hiddenInput.FindStringSubmatch(name)
		if m == nil || len(t.Shape) != 2 {
			continue
		}
		if layer, err := strconv.Atoi(m[1]); err != nil || layer >= base.Layers || t.Shape[1] != base.Hidden {
			return fmt.Errorf("it is for another base model: %s is %v, %s has %d layers of width %d\n"+
				"  hint: serve the model that the trainer trains",
				name, t.Shape, root, base.Layers, base.Hidden)
		}
	}
	return nil
}
