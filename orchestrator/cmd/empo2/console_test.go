package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"
)

// Texts of environments, models and servers reach the terminal through prints, notes,
// logs, JSON and errors.
func TestNoOutputControlsTheTerminal(t *testing.T) {
	const hostile = "\x1b[2J\x1b]0;x\a\u009b31m\u202egnp.exe\rdone\x00\x9b"
	var stdout, stderr bytes.Buffer
	out := newConsole(&stdout, &stderr)
	out.print("tip: %s", hostile)
	out.note("task: %s", hostile)
	out.json("step", map[string]string{"tip": hostile})
	log := out.logger(true)
	log.Warn().Str("tip", hostile).Strs("tips", []string{hostile}).Err(errors.New(hostile)).Msg(hostile + "\nINF forged")
	conclude(t.Context(), errors.New(hostile+"\n  hint: "+hostile), out.err)
	for name, text := range map[string]string{"stdout": stdout.String(), "stderr": stderr.String()} {
		bad := func(r rune) bool { return unicode.IsControl(r) && r != '\n' || r == '\u202e' }
		if strings.ContainsFunc(text, bad) || strings.Contains(text, "\nINF forged") || text == "" {
			t.Errorf("%s: %q", name, text)
		}
	}
	if !strings.Contains(stdout.String(), `\u001b[2J`) {
		t.Errorf("the text is not shown: %q", &stdout)
	}
}
