package llamacpp

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// fakeRendering makes every fake server answer /apply-template with prompt, or with
// an error if prompt is empty. It returns the last body of such a request. With bos
// the tokenizer adds a beginning-of-text token.
func fakeRendering(f *fakes, prompt string, bos bool) *string {
	sent := new(string)
	f.prepare = func(_ int, s *fakeserver.Llama) error {
		next := s.Config.Handler
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			answer := func(status int, v any) { w.WriteHeader(status); _ = json.NewEncoder(w).Encode(v) }
			switch {
			case r.URL.Path == "/apply-template" && prompt == "":
				refusal := map[string]any{"type": "server_error", "message": "System role not supported"}
				answer(http.StatusInternalServerError, map[string]any{"error": refusal})
			case r.URL.Path == "/apply-template":
				*sent = string(body)
				answer(http.StatusOK, map[string]string{"prompt": prompt})
			case bos && r.URL.Path == "/tokenize" && strings.Contains(string(body), `"add_special":true`):
				answer(http.StatusOK, map[string]any{"tokens": []int32{samplertest.EndOfText}})
			case bos && r.URL.Path == "/props":
				props := httptest.NewRecorder()
				next.ServeHTTP(props, r)
				const without, with = `"bos_token":""`, `"bos_token":"<|endoftext|>"`
				_, _ = io.WriteString(w, strings.Replace(props.Body.String(), without, with, 1))
			default:
				next.ServeHTTP(w, r)
			}
		})
		return nil
	}
	return sent
}

// A chat template that does not end is named, and the server is not restarted for it.
func TestAnEndlessTemplateIsNamed(t *testing.T) {
	f := newFakes()
	f.prepare = func(_ int, s *fakeserver.Llama) error {
		next := s.Config.Handler
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/apply-template" {
				_, _ = io.Copy(io.Discard, r.Body) // else the end of the connection goes unnoticed
				<-r.Context().Done()
				return
			}
			next.ServeHTTP(w, r)
		})
		return nil
	}
	b, _ := f.serve(t, Config{RenderTimeout: 50 * time.Millisecond})
	_, err := b.Render(t.Context(), []chat.Message{message(chat.RoleUser, "a")}, true)
	if err == nil || !strings.Contains(err.Error(), "takes more than 50ms for 1 messages\n  hint: correct its loops") ||
		!strings.Contains(err.Error(), ".gguf") {
		t.Error(err)
	}
	if n := b.Stats().Restarts; n != 0 {
		t.Errorf("%d restarts", n)
	}
}

func message(role, text string) chat.Message {
	return chat.Message{Role: role, Spans: []chat.Span{{Kind: chat.StateSpan, Text: text}}}
}

func TestConversationsAreRenderedByTheServer(t *testing.T) {
	f := newFakes()
	sent := fakeRendering(f, "<|im_start|>…", false)
	b, _ := f.serve(t, Config{})
	messages := []chat.Message{message(chat.RoleSystem, " s\n"), message(chat.RoleUser, "ü")}
	got, err := b.Render(t.Context(), messages, true)
	if err != nil || got != "<|im_start|>…" {
		t.Fatalf("%q, %v", got, err)
	}
	want := `{"messages":[{"role":"system","content":" s\n"},{"role":"user","content":"ü"}],"add_generation_prompt":true}`
	if diff := cmp.Diff(want, *sent); diff != "" {
		t.Error(diff)
	}
	b.cfg.TemplateArgs = map[string]any{"enable_thinking": false}
	if _, err := b.Render(t.Context(), messages, true); err != nil ||
		!strings.Contains(*sent, `"chat_template_kwargs":{"enable_thinking":false}`) {
		t.Errorf("%v, sent %s", err, *sent)
	}
	if _, err := b.Render(t.Context(), messages, false); err != nil ||
		!strings.Contains(*sent, `"add_generation_prompt":false`) {
		t.Errorf("%v, sent %s", err, *sent)
	}
}

func TestTemplateArgumentsReachTheServer(t *testing.T) {
	f := newFakes()
	sent := fakeRendering(f, "<|im_start|>…", false)
	b, _ := f.serve(t, Config{TemplateArgs: map[string]any{"enable_thinking": false}})
	if _, err := b.Render(t.Context(), []chat.Message{message(chat.RoleUser, "x")}, true); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(*sent, `"chat_template_kwargs":{"enable_thinking":false}}`) {
		t.Error(*sent)
	}
}

// The server removes the token that its tokenizer would add. Rows need it, because
// the backend sends ids.
func TestTheBeginningOfTextIsAdded(t *testing.T) {
	for _, prompt := range []string{"<|im_start|>…", "<|endoftext|><|im_start|>…"} {
		f := newFakes()
		fakeRendering(f, prompt, true)
		b, _ := f.serve(t, Config{})
		if got, err := b.Render(t.Context(), []chat.Message{message(chat.RoleUser, "x")}, true); err != nil ||
			got != "<|endoftext|><|im_start|>…" {
			t.Errorf("%q became %q, %v", prompt, got, err)
		}
	}
}

func TestRefusedConversationsAreErrors(t *testing.T) {
	f := newFakes()
	fakeRendering(f, "", false)
	b, _ := f.serve(t, Config{})
	refused := func(want string, messages ...chat.Message) {
		t.Helper()
		if _, err := b.Render(t.Context(), messages, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused("render 1 messages: "+chat.ErrRefused.Error()+": POST /apply-template: the server answers 500 Internal "+
		"Server Error: System role not supported", message(chat.RoleUser, "x"))
	refused("the last one must be the user's", message(chat.RoleUser, "x"), message(chat.RoleAssistant, "y"))
	refused("the last one must be the user's")
	b.Close()
	refused("the backend is closed", message(chat.RoleUser, "x"))
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

// llama-server would use ChatML for a file without a chat template.
func TestAMissingTemplateIsNotReplaced(t *testing.T) {
	f := newFakes()
	f.keys = baseKeys("qwen2")
	fakeRendering(f, "<|im_start|>…", false)
	b, _ := f.serve(t, Config{})
	_, err := b.Render(t.Context(), []chat.Message{message(chat.RoleUser, "x")}, true)
	if err == nil || !strings.Contains(err.Error(), "has no chat template") ||
		!strings.Contains(err.Error(), "sampler.template") {
		t.Error(err)
	}
}

// The canary and doctor name the type of a served base that is not in float32. The
// hint about the tokenizer names a key that the file lacks.
func TestCapabilitiesOfTheFile(t *testing.T) {
	f := newFakes()
	f.keys = append(baseKeys("qwen2"), pair{"general.file_type", number(3)}, pair{"tokenizer.ggml.model", text("gpt2")})
	b, _ := f.serve(t, Config{})
	c, err := b.Capabilities(t.Context())
	if err != nil || c.Rounding != "the served base is quantised: Q4_1" ||
		!strings.Contains(c.Hints["tokenizer"], "no tokenizer.ggml.pre") {
		t.Errorf("%q, %q, %v", c.Rounding, c.Hints["tokenizer"], err)
	}
	f.keys = append(f.keys, pair{"tokenizer.ggml.pre", text("qwen2")})
	b, _ = f.serve(t, Config{})
	if c, err = b.Capabilities(t.Context()); err != nil || !strings.Contains(c.Hints["tokenizer"], "model.path") {
		t.Errorf("%q, %v", c.Hints["tokenizer"], err)
	}
}
