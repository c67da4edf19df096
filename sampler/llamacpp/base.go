package llamacpp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
)

// convertTimeout bounds a conversion; it writes some 100 MB a second.
const convertTimeout = 30 * time.Minute

const wrongBase = "\n  hint: name a model's GGUF file with a tokenizer, or its folder in Hugging Face format"

// readBase reads the header of a file that should be a whole model.
func readBase(path string) (gguf, error) {
	h, err := readGGUF(path)
	switch {
	case err != nil:
	case h.Type != "" && h.Type != "model":
		err = fmt.Errorf("it is of type %s, not a model", h.Type)
	case h.Vocab == 0:
		err = errors.New("it has no tokenizer")
	case h.Context == 0:
		err = fmt.Errorf("it does not say %s.context_length", h.Arch)
	}
	if err != nil {
		return h, fmt.Errorf("base model %s: %w%s", path, err, wrongBase)
	}
	return h, nil
}

// checkAdapter refuses a file that is no LoRA adapter for the base.
func checkAdapter(path string, base gguf) error {
	h, err := readGGUF(path)
	switch {
	case err != nil:
	case h.Type != "adapter" || h.Adapter != "lora":
		err = fmt.Errorf("it is of type %q %q, not a LoRA adapter", h.Type, h.Adapter)
	case h.Arch != base.Arch:
		err = fmt.Errorf("it is for %s, the base model is %s\n  hint: the adapter belongs to another base model; name the model that it was trained on", h.Arch, base.Arch)
	}
	if err != nil {
		return fmt.Errorf("adapter %s: %w", path, err)
	}
	return nil
}

// EnsureBaseGGUF returns the GGUF file of a model. A *.gguf file is checked
// and used as it is. A folder in Hugging Face format is converted to float32
// by the trainer's sources and kept in cacheDir under the hash of what went
// into it, so that the next call finds it.
func EnsureBaseGGUF(ctx context.Context, python, sourceDir, modelDir, cacheDir string) (string, error) {
	model, err := filepath.Abs(modelDir)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(model, ".gguf") {
		_, err := readBase(model)
		return model, err
	}
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("convert %s to GGUF: %w", model, err)
	}
	source, err := filepath.Abs(sourceDir)
	if err != nil {
		return fail(err)
	}
	key, err := conversionKey(ctx, model, source)
	if err != nil {
		return fail(err)
	}
	out, err := filepath.Abs(filepath.Join(cacheDir, filepath.Base(model)+"-"+key+".gguf"))
	if err != nil {
		return fail(err)
	}
	if _, err := readBase(out); err == nil {
		return out, nil
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return fail(err)
	}
	if err := convert(ctx, python, source, model, out); err != nil {
		return fail(err)
	}
	_, err = readBase(out)
	return out, err
}

// conversionKey hashes the model's files and the converter.
func conversionKey(ctx context.Context, model, source string) (string, error) {
	entries, err := os.ReadDir(model)
	if err != nil {
		return "", fmt.Errorf("%w%s", err, wrongBase)
	}
	var files []string
	for _, e := range entries {
		if e.Type().IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		files = append(files, filepath.Join(model, e.Name()))
	}
	if !slices.Contains(files, filepath.Join(model, "config.json")) {
		return "", fmt.Errorf("it has no config.json%s", wrongBase)
	}
	converter, err := filepath.Glob(filepath.Join(source, "empo2_trainer", "gguf_*.py"))
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, file := range append(files, converter...) {
		if err := hashFile(ctx, sum, file); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}

func hashFile(ctx context.Context, sum hash.Hash, file string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	one := sha256.New()
	if _, err := io.Copy(one, f); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	fmt.Fprintf(sum, "%s %x\n", filepath.Base(file), one.Sum(nil))
	return nil
}

// convert runs the trainer's command, which writes a file that appears whole.
func convert(ctx context.Context, python, source, model, out string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, convertTimeout, fmt.Errorf("not done within %v", convertTimeout))
	defer cancel()
	var fatal error
	err := process.Run(ctx, process.Command{
		Name: "converter", Args: []string{python, "-m", "empo2_trainer", "gguf", "--model", model, "--out", out},
		Dir:   source, // Python looks for modules there first
		Env:   []string{"PYTHONPATH=" + source, "PYTHONDONTWRITEBYTECODE=1"},
		Merge: true, Hints: hints,
		Stdout: func(line string) bool {
			if err := fatalLine(line); err != nil {
				fatal = err
			}
			return fatal == nil
		},
	})
	if fatal != nil && ctx.Err() == nil {
		return fatal
	}
	return err
}

// fatalLine is the error of a trainer's last line, nil for other lines.
func fatalLine(line string) error {
	var event struct{ Event, Error, Hint string }
	if json.Unmarshal([]byte(line), &event) != nil || event.Event != "fatal" {
		return nil
	}
	if event.Hint == "" {
		return errors.New(event.Error)
	}
	return fmt.Errorf("%s\n  hint: %s", event.Error, event.Hint)
}
