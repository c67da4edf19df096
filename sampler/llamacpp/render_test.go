package llamacpp

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// rendering makes every fake answer /apply-template with prompt, or refuse it
// if prompt is empty, and keeps what was asked. With bos its tokenizer adds
// the token in front of every text.
func rendering(f *fakes, prompt string, bos bool) *string {
	asked := new(string)
	f.prepare = func(_ int, s *fakeserver.Llama) error {
		next := s.Config.Handler
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			answer := func(status int, v any) { w.WriteHeader(status); _ = json.NewEncoder(w).Encode(v) }
			switch {
			case r.URL.Path == "/apply-template" && prompt == "":
				answer(http.StatusInternalServerError,
					map[string]any{"error": map[string]any{"type": "server_error", "message": "System role not supported"}})
			case r.URL.Path == "/apply-template":
				*asked = string(body)
				answer(http.StatusOK, map[string]string{"prompt": prompt})
			case bos && r.URL.Path == "/tokenize" && strings.Contains(string(body), `"add_special":true`):
				answer(http.StatusOK, map[string]any{"tokens": []int32{samplertest.EndOfText}})
			case bos && r.URL.Path == "/props":
				props := httptest.NewRecorder()
				next.ServeHTTP(props, r)
				_, _ = io.WriteString(w, strings.Replace(props.Body.String(), `"bos_token":""`, `"bos_token":"<|endoftext|>"`, 1))
			default:
				next.ServeHTTP(w, r)
			}
		})
		return nil
	}
	return asked
}

func said(role, text string) chat.Message {
	return chat.Message{Role: role, Spans: []chat.Span{{Kind: chat.StateSpan, Text: text}}}
}

func TestConversationsAreRenderedByTheServer(t *testing.T) {
	f := newFakes()
	asked := rendering(f, "<|im_start|>…", false)
	b, _ := f.serve(t, Config{})
	talk := []chat.Message{said(chat.RoleSystem, " s\n"), said(chat.RoleUser, "ü")}
	got, err := b.Render(t.Context(), talk, true)
	if err != nil || got != "<|im_start|>…" {
		t.Fatalf("%q, %v", got, err)
	}
	want := `{"messages":[{"role":"system","content":" s\n"},{"role":"user","content":"ü"}],"add_generation_prompt":true}`
	if diff := cmp.Diff(want, *asked); diff != "" {
		t.Error(diff)
	}
	b.cfg.TemplateArgs = map[string]any{"enable_thinking": false}
	if _, err := b.Render(t.Context(), talk, true); err != nil ||
		!strings.Contains(*asked, `"chat_template_kwargs":{"enable_thinking":false}`) {
		t.Errorf("%v, asked %s", err, *asked)
	}
	if _, err := b.Render(t.Context(), talk, false); err != nil ||
		!strings.Contains(*asked, `"add_generation_prompt":false`) {
		t.Errorf("%v, asked %s", err, *asked)
	}
}

func TestTemplateArgumentsReachTheServer(t *testing.T) {
	f := newFakes()
	asked := rendering(f, "<|im_start|>…", false)
	b, _ := f.serve(t, Config{TemplateArgs: map[string]any{"enable_thinking": false}})
	if _, err := b.Render(t.Context(), []chat.Message{said(chat.RoleUser, "x")}, true); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(*asked, `"chat_template_kwargs":{"enable_thinking":false}}`) {
		t.Error(*asked)
	}
}

// The server takes out what its tokenizer would add; rows are made of ids, to
// which nothing is added.
func TestTheBeginningOfTextIsPutBack(t *testing.T) {
	for _, prompt := range []string{"<|im_start|>…", "<|endoftext|><|im_start|>…"} {
		f := newFakes()
		rendering(f, prompt, true)
		b, _ := f.serve(t, Config{})
		if got, err := b.Render(t.Context(), []chat.Message{said(chat.RoleUser, "x")}, true); err != nil ||
			got != "<|endoftext|><|im_start|>…" {
			t.Errorf("%q became %q, %v", prompt, got, err)
		}
	}
}

func TestRefusedConversationsSaySo(t *testing.T) {
	f := newFakes()
	rendering(f, "", false)
	b, _ := f.serve(t, Config{})
	refused := func(want string, talk ...chat.Message) {
		t.Helper()
		if _, err := b.Render(t.Context(), talk, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused("render 1 messages: "+chat.ErrRefused.Error()+": POST /apply-template: the server answers 500 Internal "+
		"Server Error: System role not supported", said(chat.RoleUser, "x"))
	refused("the last one must be the user's", said(chat.RoleUser, "x"), said(chat.RoleAssistant, "y"))
	refused("the last one must be the user's")
	b.Close()
	refused("the backend is closed", said(chat.RoleUser, "x"))
}

func TestControlTokensOfTemplatesBecomeIDs(t *testing.T) {
	b, _ := newFakes().serve(t, Config{})
	got, err := b.TokenizeSpecial(t.Context(), "<|im_start|>pull<|im_end|>")
	if diff := cmp.Diff([]int32{samplertest.Start, 260, samplertest.End}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got, err := b.TokenizeSpecial(t.Context(), ""); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
