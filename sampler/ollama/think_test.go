package ollama

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

func TestThinkIsSentWithMessages(t *testing.T) {
	f := func(args map[string]any, want any) {
		t.Helper()
		s := newFake(t, script)
		b := openFake(t, s, func(c *Config) { c.Codec, c.TemplateArgs = nil, args })
		hello := chat.Message{Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: "go"}}}
		sample(t, b, publish(t, b, sampler.Adapter{}), sampler.Request{Messages: []chat.Message{hello}, MaxTokens: 9})
		sent := s.Requests()
		if got := sent[len(sent)-1].Think; got != want {
			t.Errorf("%v: think is %v, want %v", args, got, want)
		}
	}
	f(nil, nil)
	f(map[string]any{"enable_thinking": false}, false)
	f(map[string]any{"think": true}, true)
	f(map[string]any{"think": "low"}, "low")
}

func TestOtherTemplateArgumentsAreRefused(t *testing.T) {
	for _, args := range []map[string]any{
		{"effort": "low"}, {"enable_thinking": "low"}, {"think": "much"}, {"think": 3},
		{"think": true, "enable_thinking": true},
	} {
		_, err := Open(t.Context(), Config{URL: "http://127.0.0.1:1", Model: "tiny", TemplateArgs: args})
		if err == nil || !strings.Contains(err.Error(), "hint: sampler.template_args") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// A thought in a field of its own is no part of the reply, also if the reply is empty
// because it was cut off.
func TestThoughtsInAFieldOfTheirOwn(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		var a answer
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatal(err)
		}
		a.Model = "tiny"
		if got, ok := a.text(); got != want || !ok || a.check("tiny") != nil {
			t.Errorf("%s: %q, %t, want %q; %v", text, got, ok, want, a.check("tiny"))
		}
	}
	f(`{"message": {"role": "assistant", "content": "go east", "thinking": "hm"}, "done": true}`, "go east")
	f(`{"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": true, "done_reason": "length"}`, "")
	f(`{"response": "go east", "thinking": "hm", "done": true}`, "go east")
	f(`{"response": "", "thinking": "hm", "done": true, "done_reason": "length"}`, "")
}
