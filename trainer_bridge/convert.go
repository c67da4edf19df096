package trainerbridge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
)

// convertTimeout bounds a conversion; it writes some 100 MB a second.
const convertTimeout = 30 * time.Minute

// A Converter makes model files with the trainer's sources.
type Converter struct {
	Python    string         // interpreter that has the trainer's requirements
	SourceDir string         // holds the package empo2_trainer, see [ExtractSources]
	Inherit   []string       // environment variables, as in [ProcessConfig]
	Log       zerolog.Logger // the zero value is silent
}

// Convert writes the model in a folder in Hugging Face format as float32 to the
// file out. The file appears only when it is complete.
func (c Converter) Convert(ctx context.Context, model, out string) error {
	return c.run(ctx, "converter", "gguf", "--model", model, "--out", out)
}

// Merge names a model, an adapter and the merged model.
type Merge struct {
	Model   string // folder in Hugging Face format
	Adapter string // folder in PEFT's format
	Out     string // new folder in Hugging Face format; it must not exist
	Dtype   string // of the new weights: float32, bfloat16 or float16
	About   any    // stored in the new folder's warmstart.json, which lists its files too
}

// Merge adds an adapter to the weights of its base and writes a new model folder.
// The folder appears only when it is complete. Memory for one tensor suffices.
func (c Converter) Merge(ctx context.Context, m Merge) error {
	about, err := json.Marshal(m.About)
	if err != nil {
		return fmt.Errorf("merge into %s: %w", m.Out, err)
	}
	return c.run(ctx, "merge", "merge", "--model", m.Model, "--adapter", m.Adapter, "--out", m.Out,
		"--dtype", m.Dtype, "--about", string(about))
}

// run runs a command of the trainer's package.
func (c Converter) run(ctx context.Context, name string, args ...string) error {
	source, err := filepath.Abs(c.SourceDir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, convertTimeout, fmt.Errorf("not done within %v", convertTimeout))
	defer cancel()
	said := output{log: c.Log}
	err = process.Run(ctx, process.Command{
		Name: name, Args: append([]string{c.Python, "-m", "empo2_trainer"}, args...),
		Dir:   source, // Python looks for modules there first
		Needs: process.Libraries | process.Models, Inherit: c.Inherit,
		Env:   []string{"PYTHONPATH=" + source, "PYTHONDONTWRITEBYTECODE=1"},
		Merge: true, Stdout: said.line, Log: c.Log,
	})
	switch {
	case err == nil || ctx.Err() != nil || said.fatal == "":
		return err
	case said.hint != "":
		return fmt.Errorf("%s\n  hint: %s", said.fatal, said.hint)
	}
	return errors.New(said.fatal)
}

// Fingerprint is a hash of the code that converts. With the same fingerprint a
// model is converted to the same file.
func (c Converter) Fingerprint() (string, error) {
	// A pattern of whole paths would not match folders that have a [ in their names.
	files, err := fs.Glob(os.DirFS(filepath.Join(c.SourceDir, "empo2_trainer")), "gguf_*.py")
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%s holds no converter", c.SourceDir)
	}
	sum := sha256.New()
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(c.SourceDir, "empo2_trainer", file))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %x\n", file, sha256.Sum256(text))
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
