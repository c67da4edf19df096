package main

import (
	"bytes"
	"testing"

	"github.com/empo2/empo2/orchestrator"
)

// A prompt template that is not taken is named with the place of the fault and a remedy.
func TestReloadsArePrinted(t *testing.T) {
	f := func(r orchestrator.PromptReload, want string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		textObserver{out: newConsole(&stdout, &stderr)}.Prompt(r)
		if stderr.String() != want || stdout.Len() > 0 {
			t.Errorf("%q, want %q", stderr.String(), want)
		}
	}
	f(orchestrator.PromptReload{Step: 3, Template: "mine.tmpl", SHA256: "0123456789abcdef"},
		"step 3 takes the changed prompt template mine.tmpl (sha256 0123456789ab)\n")
	f(orchestrator.PromptReload{Step: 4, Template: "mine.tmpl", SHA256: "0123456789abcdef",
		Problem: "prompt.template: prompt template mine.tmpl: no block \"state\"\n  hint: edit it"},
		"step 4 keeps the previous prompt template (sha256 0123456789ab): "+
			"prompt.template: prompt template mine.tmpl: no block \"state\"\n  hint: edit it\n")
}
