package demos

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParse(t *testing.T) {
	zero := 0
	f := func(line string, want ...Message) {
		t.Helper()
		got, err := Parse(strings.NewReader("\ufeff\n" + line + "\r\n\n"))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			return
		}
		if diff := cmp.Diff([]Demonstration{{Messages: want, Line: 2}}, got); diff != "" && len(got) == 1 {
			t.Errorf("%s:\n%s", line, diff)
		}
	}
	user, answer := Message{Role: "user", Content: "a"}, Message{Role: "assistant", Content: "b"}
	untrained := Message{Role: "assistant", Content: "b", Weight: &zero}
	f(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"id":7}`, user, answer)
	f(`{"messages":[{"role":"system","content":""},{"role":"user","content":[{"type":"text","text":"a"}]},`+
		`{"role":"assistant","content":"b"}]}`, Message{Role: "system"}, user, answer)
	f(`{"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"a"}],`+
		`"completion":[{"role":"assistant","content":"b"}]}`, user, untrained, user, answer)
	f(`{"messages":[{"role":"user","content":"a","weight":0},{"role":"assistant","content":"b","weight":0},`+
		`{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"tools":null}`,
		user, untrained, user, answer)
}

func TestParseRefuses(t *testing.T) {
	f := func(line, want string) {
		t.Helper()
		good := `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`
		_, err := Parse(strings.NewReader(good + "\n" + line))
		if err == nil || !strings.HasPrefix(err.Error(), "line 2: ") || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "\n  hint: ") {
			t.Errorf("%s: error %v, want %q with a hint", line, err, want)
		}
	}
	f(`{"messages":[`, "no valid JSON")
	f(`[1]`, "no valid JSON")
	f(`{"text":"a"}`, "neither messages alone nor prompt with completion")
	f(`{"prompt":"a","completion":"b"}`, "prompt is no list of messages")
	f(`{"prompt":[{"role":"user","content":"a"}]}`, "neither messages alone")
	f(`{"messages":[]}`, "it has no message")
	f(`{"messages":[{"role":"tool","content":"a"}]}`, `message 1 has the role "tool"`)
	f(`{"messages":[{"role":"assistant","content":"a"}]}`, "message 1 has the role assistant, want user")
	f(`{"messages":[{"role":"user","content":"a"},{"role":"user","content":"a"}]}`,
		"message 2 has the role user, want assistant")
	f(`{"messages":[{"role":"user","content":"a"},{"role":"system","content":"a"}]}`, "message 2 has the role system")
	f(`{"messages":[{"role":"user","content":"a"}]}`, "the last message has the role user, want assistant")
	f(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":" "}]}`,
		"message 2 of the assistant has no text")
	f(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null}]}`,
		"message 2 of messages: content is no text")
	f(`{"messages":[{"role":"user","content":[{"type":"image_url"}]},{"role":"assistant","content":"b"}]}`,
		`message 1 of messages: content has a part of type "image_url"`)
	f(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":2}]}`, "weight is 2")
	f(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0}]}`,
		"every message of the assistant has weight 0")
	f(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","tool_calls":[]}]}`, "tool calls")
	f(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"tools":[]}`,
		"tools are not supported")
	f("{\"messages\":\"\xff\"}", "not UTF-8")
	if _, err := Parse(strings.NewReader("\n \n")); err == nil || !strings.Contains(err.Error(), "no demonstration") {
		t.Errorf("an empty file: %v", err)
	}
}

func TestWriteAndRead(t *testing.T) {
	path, zero := filepath.Join(t.TempDir(), "d.jsonl"), 0
	all := []Demonstration{{Messages: []Message{{"user", "<a> & \u2028é\n", nil}, {"assistant", "b", &zero},
		{"user", "c", nil}, {"assistant", "d", nil}}, Source: &Source{Env: "e", Task: "t", Score: 1, Success: true}}}
	if err := Write(path, all); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if diff := cmp.Diff(all, got, cmpopts.IgnoreFields(Demonstration{}, "Line")); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}
