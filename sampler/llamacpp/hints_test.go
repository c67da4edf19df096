package llamacpp

import (
	"testing"

	"github.com/empo2/empo2/orchestrator/process"
)

// An adapter that cannot be loaded has a remedy. Its cause comes first in the list.
func TestHintsForAdapters(t *testing.T) {
	f := func(output, want string) {
		t.Helper()
		if got := process.HintFor(output, exitHints); got != want {
			t.Errorf("%q: hint %q, want %q", output, got, want)
		}
	}
	f("gguf_init_from_file: failed to open GGUF file 'a.gguf'\nfailed to load lora adapter 'a.gguf'", adapterHint)
	f("failed to apply lora adapter", adapterHint)
	f("LoRA arch mismatch\nfailed to apply lora adapter", otherBaseHint)
}
