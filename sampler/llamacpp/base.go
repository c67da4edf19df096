package llamacpp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const wrongBase = "\n  hint: use a GGUF file with a tokenizer, or a folder in Hugging Face format"

// readBase reads the header of a file that must be a complete model.
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
		return h, baseError(path, err)
	}
	return h, nil
}

// baseError says what is wrong with a base model, and the remedy.
func baseError(path string, err error) error {
	hint := wrongBase
	if errors.Is(err, errCutShort) {
		hint = "\n  hint: delete the file, so that it is written or downloaded again"
	}
	return fmt.Errorf("base model %s: %w%s", path, err, hint)
}

// checkAdapter refuses a file that is not a LoRA adapter for the base model.
func checkAdapter(path string, base gguf) error {
	h, err := readGGUF(path)
	switch {
	case err != nil:
		err = fmt.Errorf("%w\n  hint: %s", err, adapterHint)
	case h.Type != "adapter" || h.Adapter != "lora":
		err = fmt.Errorf("it is of type %q %q, not a LoRA adapter\n  hint: %s", h.Type, h.Adapter, adapterHint)
	case h.Arch != base.Arch:
		err = fmt.Errorf("it is for %s, the base model is %s\n"+
			"  hint: set model.path to the model that the adapter was trained on", h.Arch, base.Arch)
	}
	if err != nil {
		return fmt.Errorf("adapter %s: %w", path, err)
	}
	return nil
}

// A Converter writes models as GGUF files.
type Converter interface {
	// Convert writes the model in a folder in Hugging Face format to the file
	// out. The file must appear only when it is complete.
	Convert(ctx context.Context, model, out string) error
	// Fingerprint identifies the result: if it changes, models are converted again.
	Fingerprint() (string, error)
}

// EnsureBaseGGUF returns the GGUF file of a model. A *.gguf file is only checked. A
// folder in Hugging Face format is converted once. The file is stored in cacheDir
// under a hash of the model and the converter.
func EnsureBaseGGUF(ctx context.Context, c Converter, modelDir, cacheDir string) (string, error) {
	model, err := filepath.Abs(modelDir)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(model, ".gguf") {
		_, err := readBase(model)
		return model, err
	}
	out, err := ensureConverted(ctx, c, model, cacheDir)
	if err != nil {
		return "", fmt.Errorf("convert %s to GGUF: %w", model, err)
	}
	return out, nil
}

func ensureConverted(ctx context.Context, c Converter, model, cacheDir string) (string, error) {
	key, err := conversionKey(ctx, c, model)
	if err != nil {
		return "", err
	}
	out, err := filepath.Abs(filepath.Join(cacheDir, filepath.Base(model)+"-"+key+".gguf"))
	if err != nil {
		return "", err
	}
	if _, err := readBase(out); err == nil {
		return out, nil
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", err
	}
	if err := c.Convert(ctx, model, out); err != nil {
		return "", err
	}
	_, err = readBase(out)
	return out, err
}

// conversionKey hashes the model's files and the converter's fingerprint.
func conversionKey(ctx context.Context, c Converter, model string) (string, error) {
	entries, err := os.ReadDir(model)
	if err != nil {
		return "", fmt.Errorf("%w%s", err, wrongBase)
	}
	if _, err := os.Stat(filepath.Join(model, "config.json")); err != nil {
		return "", fmt.Errorf("it has no config.json%s", wrongBase)
	}
	sum := sha256.New()
	for _, e := range entries {
		if e.Type().IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := hashFile(ctx, sum, filepath.Join(model, e.Name())); err != nil {
			return "", err
		}
	}
	fingerprint, err := c.Fingerprint()
	if err != nil {
		return "", fmt.Errorf("fingerprint of the converter: %w", err)
	}
	fmt.Fprintln(sum, fingerprint)
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
