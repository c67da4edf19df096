package trainerbridge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// convertTimeout bounds a conversion; it writes some 100 MB a second.
const convertTimeout = 30 * time.Minute

// A Converter converts models to GGUF with the trainer's sources.
type Converter struct {
	Python    string // interpreter that has the trainer's requirements
	SourceDir string // holds the package empo2_trainer, see [ExtractSources]
}

// Convert writes the model in a folder in Hugging Face format as float32 to the
// file out. The file appears only when it is complete.
func (c Converter) Convert(ctx context.Context, model, out string) error {
	source, err := filepath.Abs(c.SourceDir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, convertTimeout, fmt.Errorf("not done within %v", convertTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Python, "-m", "empo2_trainer", "gguf", "--model", model, "--out", out)
	cmd.Dir = source // Python looks for modules there first
	cmd.Env = append(os.Environ(), "PYTHONPATH="+source, "PYTHONDONTWRITEBYTECODE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	var said output
	stderr := &lines{each: func(line string) { said.add(line, zerolog.Nop()) }}
	cmd.Stdout, cmd.Stderr = stderr, stderr
	err = cmd.Run()
	stderr.flush()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	end := said.exitError(err.Error())
	if end.Fatal != "" && end.Hint != "" {
		return fmt.Errorf("%s\n  hint: %s", end.Fatal, end.Hint)
	}
	if end.Fatal != "" {
		return errors.New(end.Fatal)
	}
	return fmt.Errorf("%w%s", err, said.said())
}

// Fingerprint is a hash of the code that converts. With the same fingerprint a
// model is converted to the same file.
func (c Converter) Fingerprint() (string, error) {
	files, err := filepath.Glob(filepath.Join(c.SourceDir, "empo2_trainer", "gguf_*.py"))
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%s holds no converter", c.SourceDir)
	}
	sum := sha256.New()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %x\n", filepath.Base(file), sha256.Sum256(text))
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
