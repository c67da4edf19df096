package demos

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/google/go-cmp/cmp"
)

var lineOrNone = regexp.MustCompile(`^(line \d+: |it has no demonstration)`)

// An accepted file has conversations that end with the assistant, and is equal after
// writing and reading. A refused file gets an error with a line and a hint.
func FuzzParse(f *testing.F) {
	const good = `{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}`
	f.Add(good + "\n" + good)
	f.Add(`{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}`)
	f.Add(`{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant",
"content": "b", "weight": 0}]}`)
	f.Add("\ufeff{\"messages\": 3}")
	f.Add(`{"messages": [{"role": "assistant", "content": null, "tool_calls": [1]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Parse(strings.NewReader(text))
		if err != nil {
			if !lineOrNone.MatchString(err.Error()) || !strings.Contains(err.Error(), "\n  hint: ") {
				t.Fatalf("%q lacks a line or a hint", err)
			}
			return
		}
		var written strings.Builder
		encoder := json.NewEncoder(&written)
		for i, d := range all {
			if d.Messages[len(d.Messages)-1].Role != chat.RoleAssistant {
				t.Fatalf("demonstration %d ends with %q", i, d.Messages[len(d.Messages)-1].Role)
			}
			if err := encoder.Encode(d); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Parse(strings.NewReader(written.String()))
		for i := range again {
			again[i].Line = all[i].Line
		}
		if err != nil || cmp.Diff(all, again) != "" {
			t.Fatalf("differs after writing and reading: %v\n%s", err, cmp.Diff(all, again))
		}
	})
}
