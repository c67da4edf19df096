package main

import (
	"errors"

	"github.com/empo2/empo2/orchestrator"
)

// printReload prints that a step took a changed prompt template, or why it did not.
func printReload(out *console, r orchestrator.PromptReload) {
	if r.Problem == "" {
		out.note("step %d takes the changed prompt template %s (sha256 %.12s)", r.Step, r.Template, r.SHA256)
		return
	}
	msg, hint := splitHint(errors.New(r.Problem))
	out.note("step %d keeps the previous prompt template (sha256 %.12s): %s", r.Step, r.SHA256, msg)
	if hint != "" {
		out.note("  hint: %s", hint)
	}
}
