package llamacpp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// binary writes a script with the command line of llama-server that starts a real
// server.
func (r *real) binary(t *testing.T) string {
	t.Helper()
	script, err := filepath.Abs("testdata/llama-server.py")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "llama-server")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec "+r.python+" "+script+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// testBinary runs the conformance suite with a binary.
func testBinary(t *testing.T, r *real) {
	cfg := r.config()
	cfg.Python, cfg.Binary, cfg.Args = "", r.binary(t), []string{"--n-gpu-layers", "0"}
	samplertest.Run(t, func(t *testing.T) samplertest.Fixture {
		b := r.open(t, cfg)
		return samplertest.Fixture{
			Backend: b, Tokenizer: b, Control: b, Tolerance: 1e-4, Prompt: "You are at a door.",
			Adapter: func(t *testing.T, version int) sampler.Adapter { return r.adapter(t, version) },
		}
	})
	cfg.Args = []string{"--no-such-flag"}
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("a flag that the binary does not know: %v", err)
	}
}

func TestArgumentsNeedABinary(t *testing.T) {
	_, err := newFakes().open(t, Config{Args: []string{"-ngl", "99"}})
	if err == nil || !strings.Contains(err.Error(), "sampler.llamacpp.binary") {
		t.Errorf("%v", err)
	}
}
