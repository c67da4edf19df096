package openai

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func script(int, []int32) []samplertest.Choice {
	return []samplertest.Choice{{Text: "pull jade", Weight: 3}, {Text: "pull amber", Weight: 2},
		{Text: "look at the corridor", Weight: 2}}
}

func newFake(t testing.TB, script samplertest.Script) *fakeserver.OpenAI {
	t.Helper()
	s := fakeserver.NewOpenAI(samplertest.Policy{Tokenizer: samplertest.NewTokenizer(" jade", " amber", "pull"),
		Script: script})
	t.Cleanup(s.Close)
	return s
}

// faultsOf returns a function that injects a fault into the next n completions.
func faultsOf(s *fakeserver.OpenAI) func(n int, fault samplertest.Fault) {
	next := make(chan samplertest.Fault, 16)
	s.Fault = func(int) samplertest.Fault {
		select {
		case fault := <-next:
			return fault
		default:
			return ""
		}
	}
	return func(n int, fault samplertest.Fault) {
		for range n {
			next <- fault
		}
	}
}

func openFake(t testing.TB, s *fakeserver.OpenAI, change func(*Config)) *Backend {
	t.Helper()
	cfg := Config{URL: s.URL, Model: "tiny", RequestTimeout: time.Minute}
	if change != nil {
		change(&cfg)
	}
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.client.pause = time.Millisecond
	t.Cleanup(func() { b.Close() })
	return b
}

func publish(t testing.TB, b *Backend) sampler.Policy {
	t.Helper()
	p, err := b.Publish(t.Context(), sampler.Adapter{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func textMessage(role, text string) chat.Message {
	return chat.Message{Role: role, Spans: []chat.Span{{Kind: chat.StateSpan, Text: text}}}
}

func request() sampler.Request {
	return sampler.Request{MaxTokens: 9, Messages: []chat.Message{
		textMessage("system", "Walk."), textMessage("user", "go"), textMessage("assistant", "pull"),
		textMessage("user", "on"),
	}}
}

func TestOpenAIConforms(t *testing.T) {
	samplertest.RunText(t, func(t *testing.T) samplertest.TextFixture {
		s := newFake(t, script)
		fail := faultsOf(s)
		return samplertest.TextFixture{Backend: openFake(t, s, nil), Fail: fail}
	})
}

func TestEveryParameterIsSent(t *testing.T) {
	f := func(completion bool, role string, roles ...string) {
		t.Helper()
		s := newFake(t, script)
		s.Completion = completion
		b := openFake(t, s, func(c *Config) { c.SystemRole = role })
		p := publish(t, b)
		r := request()
		r.Temperature, r.Seed = 0.5, 1<<40
		if _, err := b.Sample(t.Context(), p, r); err != nil {
			t.Fatal(err)
		}
		requests := s.Requests()
		got := requests[len(requests)-1]
		limit, other := got.MaxTokens, got.MaxCompletionTokens
		if completion {
			limit, other = other, limit
		}
		if *got.Temperature != 0.5 || *got.TopP != 1 || *got.Seed != 256 || limit == nil || *limit != 9 || other != nil ||
			got.Stream {
			t.Errorf("%+v", got)
		}
		var sent []string
		for _, m := range got.Messages {
			sent = append(sent, m.Role+": "+m.Content)
		}
		if diff := cmp.Diff(roles, sent); diff != "" {
			t.Error(diff)
		}
	}
	f(false, "", "system: Walk.", "user: go", "assistant: pull", "user: on")
	f(true, "developer", "developer: Walk.", "user: go", "assistant: pull", "user: on")
	f(false, "user", "user: Walk.\n\ngo", "assistant: pull", "user: on")
}

// The backend finds the name of the token limit once.
func TestTheNameOfTheTokenLimitIsFoundOnce(t *testing.T) {
	s := newFake(t, script)
	s.Completion = true
	b := openFake(t, s, nil)
	p := publish(t, b)
	for range 3 {
		if _, err := b.Sample(t.Context(), p, request()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.Requests()); n != 5 {
		t.Errorf("%d requests, want one refused, one to publish, three to sample", n)
	}
}

func TestOnlyTheBaseModelCanBePublished(t *testing.T) {
	b := openFake(t, newFake(t, script), nil)
	_, err := b.Publish(t.Context(), sampler.Adapter{Version: 1, Dir: "peft", GGUF: "adapter.gguf"})
	if err == nil || !strings.Contains(err.Error(), "cannot load new weights") ||
		!strings.Contains(err.Error(), "hint: ") {
		t.Errorf("got %v", err)
	}
	caps, err := b.Capabilities(t.Context())
	if err != nil || caps.Adapters != "none" || caps.ContextLength != 4096 {
		t.Errorf("%+v, %v", caps, err)
	}
	if err := (sampler.Requirements{Adapters: true}).Check(caps); err == nil || !strings.Contains(err.Error(), "vllm") {
		t.Errorf("the error names no other backend: %v", err)
	}
}

func TestAnswersAreCounted(t *testing.T) {
	f := func(fault samplertest.Fault, text string, finish sampler.FinishReason, change func(*Stats)) {
		t.Helper()
		s := newFake(t, samplertest.Say("pull jade"))
		fail := faultsOf(s)
		b := openFake(t, s, nil)
		p := publish(t, b)
		before := b.Stats()
		fail(1, fault)
		c, err := b.Sample(t.Context(), p, request())
		if err != nil || c.Text != text || c.Finish != finish || c.Policy != p || c.IDs != nil || c.Logprobs != nil {
			t.Errorf("%s: %+v, %v", fault, c, err)
		}
		want := before
		want.Requests++
		want.Sampled += 3
		want.PromptTokens = b.Stats().PromptTokens
		change(&want)
		if diff := cmp.Diff(want, b.Stats()); diff != "" || want.PromptTokens <= before.PromptTokens ||
			want.Model != "tiny-2026-08" {
			t.Errorf("%s: %s", fault, diff)
		}
	}
	f("", "pull jade", sampler.FinishStop, func(*Stats) {})
	f(samplertest.FaultEmpty, "", sampler.FinishStop, func(s *Stats) { s.Empty++ })
	f(samplertest.FaultNoEnd, "pull jade", sampler.FinishLength, func(s *Stats) { s.Cut++ })
	f(samplertest.FaultBusy, "pull jade", sampler.FinishStop, func(s *Stats) { s.Retries++ })
}

func TestAnAnswerWithoutChoicesIsAnError(t *testing.T) {
	s := newFake(t, script)
	fail := faultsOf(s)
	b := openFake(t, s, nil)
	p := publish(t, b)
	fail(1, samplertest.FaultWrongIDs)
	if _, err := b.Sample(t.Context(), p, request()); err == nil || !strings.Contains(err.Error(), "no choices") {
		t.Errorf("got %v", err)
	}
}

func TestAConversationThatDoesNotFitIsAnError(t *testing.T) {
	s := newFake(t, script)
	s.Context = 64
	b := openFake(t, s, nil)
	p := publish(t, b)
	r := request()
	r.Messages[3] = textMessage("user", strings.Repeat("x", 99))
	if _, err := b.Sample(t.Context(), p, r); !errors.Is(err, sampler.ErrContextFull) {
		t.Errorf("got %v", err)
	}
}

func TestOpenAndPublishErrors(t *testing.T) {
	f := func(want string, change func(*fakeserver.OpenAI, *Config)) {
		t.Helper()
		s := newFake(t, script)
		cfg := Config{URL: s.URL, Model: "tiny", APIKey: "sk-secret", RequestTimeout: time.Minute}
		change(s, &cfg)
		b, err := Open(t.Context(), cfg)
		if err == nil {
			defer b.Close()
			_, err = b.Publish(t.Context(), sampler.Adapter{})
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sk-secret") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f("the server has: another, tiny", func(_ *fakeserver.OpenAI, c *Config) { c.Model = "tniy" })
	f("does not exist", func(s *fakeserver.OpenAI, c *Config) { c.Model, s.NoModels = "tniy", true })
	f("API key", func(s *fakeserver.OpenAI, c *Config) { s.APIKey = "sk-another" })
	f("check that the server is running", func(s *fakeserver.OpenAI, _ *Config) { s.Server.Close() })
	f("sampler.openai.url", func(_ *fakeserver.OpenAI, c *Config) { c.URL += "/v2" })
	f("sampler.openai.url", func(_ *fakeserver.OpenAI, c *Config) { c.URL = "localhost:8000" })
	f("sampler.served_model_name", func(_ *fakeserver.OpenAI, c *Config) { c.Model = "" })
	f("must be system, developer or user", func(_ *fakeserver.OpenAI, c *Config) { c.SystemRole = "tool" })
	f("requests in flight", func(_ *fakeserver.OpenAI, c *Config) { c.MaxInFlight = -1 })
}

func TestTheBaseURL(t *testing.T) {
	for given, want := range map[string]string{
		"http://h:8000": "http://h:8000/v1", "http://h:8000/": "http://h:8000/v1", "https://h/v1/": "https://h/v1",
		"https://h/api/v1":         "https://h/api/v1",
		"https://h/v1beta/openai/": "https://h/v1beta/openai",
	} {
		if got, err := (Config{URL: given, Model: "m"}.withDefaults().base()); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", given, got, err, want)
		}
	}
}

// A server without a list of models is accepted.
func TestAListOfModelsIsOptional(t *testing.T) {
	s := newFake(t, script)
	s.NoModels, s.APIKey = true, "sk-secret"
	b := openFake(t, s, func(c *Config) { c.APIKey = "sk-secret" })
	publish(t, b)
}

func TestTheKeyIsNotLogged(t *testing.T) {
	s := newFake(t, script)
	s.APIKey = "sk-secret"
	fail := faultsOf(s)
	var log bytes.Buffer
	b := openFake(t, s, func(c *Config) { c.APIKey, c.Log = "sk-secret", zerolog.New(&log) })
	p := publish(t, b)
	fail(1, samplertest.FaultBusy)
	fail(1, samplertest.FaultCut)
	if _, err := b.Sample(t.Context(), p, request()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "sending the request again"); n != 2 ||
		strings.Contains(log.String(), "sk-secret") {
		t.Errorf("%d retries in the log: %s", n, log.String())
	}
}

// Each refusal has the hint that fits it.
func TestHintsOfRefusals(t *testing.T) {
	f := func(status int, text, want string, notWanted ...string) {
		t.Helper()
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/models") {
				fmt.Fprint(w, `{"data": [{"id": "other"}]}`)
				return
			}
			w.Header().Set("Retry-After", "100")
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		}))
		defer s.Close()
		b, err := Open(t.Context(), Config{URL: s.URL, Model: "m", RequestTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		_, err = b.Publish(t.Context(), sampler.Adapter{})
		got := fmt.Sprint(err)
		if strings.Count(got, "\n  hint: ") > 1 || !strings.Contains(got, want) {
			t.Errorf("%d: %s, want %q", status, got, want)
		}
		for _, other := range notWanted {
			if strings.Contains(got, other) {
				t.Errorf("%d: %s has %q", status, got, other)
			}
		}
	}
	f(401, `{"error": {"message": "no such key for this model"}}`, "EMPO2_SERVER_KEY", "served_model_name")
	f(429, `{"error": {"message": "rate limit of the model"}}`, "lower sampler.concurrency", "served_model_name")
	f(400, `{"error": {"message": "temperature must be below 0.9"}}`, "temperature", "served_model_name")
	f(404, `{"error": {"message": "not found", "code": "model_not_found"}}`, "the server has: other")
}

// A refused system message names the key that moves it to the user's message.
func TestARefusedSystemRoleHasAHint(t *testing.T) {
	f := func(status int, text, role string, hinted bool) {
		t.Helper()
		url, _ := newPicky(t, func(body map[string]any) (int, string) {
			if messages, _ := body["messages"].([]any); len(messages) > 1 {
				return status, text
			}
			return 0, ""
		}, `"yes"`)
		b, err := Open(t.Context(), Config{URL: url, Model: "m", RequestTimeout: time.Minute, SystemRole: role})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		r := request()
		r.Messages = []chat.Message{chat.NewMessage(chat.RoleSystem, "S"), chat.NewMessage(chat.RoleUser, "u"),
			chat.NewMessage(chat.RoleAssistant, "a"), chat.NewMessage(chat.RoleUser, "u")}
		_, err = b.Sample(t.Context(), publish(t, b), r)
		if got := strings.Contains(fmt.Sprint(err), `sampler.openai.system_role is`); got != hinted || err == nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	f(400, `{"error": {"message": "System role not supported"}}`, "", true)
	f(400, `{"error": {"message": "Unsupported value: 'messages[0].role' does not support 'system' with this model."}}`,
		"", true)
	f(400, `[{"error": {"message": "Developer instruction is not enabled for models/gemma-3-27b-it"}}]`, "developer",
		true)
	f(400, `{"error": {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}}`, "", true)
	f(400, `{"error": {"message": "System role not supported"}}`, "user", false)
	f(400, `{"error": {"message": "no such file system"}}`, "", false)
}

// A request fails immediately if the server requests a pause that is longer than
// the deadline.
func TestRetryAfterIsObeyedWithinTheDeadline(t *testing.T) {
	f := func(after time.Duration, answered bool) {
		t.Helper()
		s := newFake(t, script)
		s.RetryAfter = after
		fail := faultsOf(s)
		b := openFake(t, s, nil)
		p := publish(t, b)
		fail(1, samplertest.FaultBusy)
		start := time.Now()
		_, err := b.Sample(t.Context(), p, request())
		if (err == nil) != answered || answered && time.Since(start) < after {
			t.Errorf("pause %v: %v after %v", after, err, time.Since(start))
		}
		if !answered && (!strings.Contains(err.Error(), "after the deadline") ||
			!strings.Contains(err.Error(), "Rate limit")) {
			t.Errorf("pause %v: %v", after, err)
		}
	}
	f(20*time.Millisecond, true)
	f(time.Hour, false)
}

// Permanent errors are not retried.
func TestPermanentErrorsAreNotRetried(t *testing.T) {
	f := func(status int, body, want string, requests int) {
		t.Helper()
		requested := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/models") {
				http.NotFound(w, r)
				return
			}
			requested++
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		defer s.Close()
		b, err := Open(t.Context(), Config{URL: s.URL, Model: "m", RequestTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		b.client.pause = time.Microsecond
		_, err = b.Publish(t.Context(), sampler.Adapter{})
		if err == nil || !strings.Contains(err.Error(), want) || requested != requests {
			t.Errorf("%d: %v after %d requests", status, err, requested)
		}
	}
	f(400, `{"error":{"message":"temperature is not supported","code":null}}`, "temperature is not supported", 2)
	f(422, `{"detail":[{"loc":["body","seed"],"msg":"bad seed"}]}`, "bad seed", 1)
	f(400, `{"message":"no credit"}`, "no credit", 1)
	f(403, `<html>`, "API key", 1)
	f(501, `{}`, "501", 1)
	f(500, `{"error":{"message":"out of memory","code":500}}`, "out of memory", maxTries)
}

func TestARequestHasADeadline(t *testing.T) {
	s := newFake(t, script)
	fail := faultsOf(s)
	b := openFake(t, s, nil)
	p := publish(t, b)
	b.cfg.RequestTimeout = 30 * time.Millisecond
	fail(1, samplertest.FaultHang)
	_, err := b.Sample(context.WithoutCancel(t.Context()), p, request())
	if err == nil || !strings.Contains(err.Error(), "no answer within 30ms") {
		t.Errorf("got %v", err)
	}
}

// The error names a parameter that the server does not have, with a remedy.
func TestErrorsNameUnknownParameters(t *testing.T) {
	f := func(parameter, hint string, change func(*Config), r sampler.Request) {
		t.Helper()
		s := newFake(t, script)
		s.Unknown = []string{parameter}
		b := openFake(t, s, change)
		p, err := b.Publish(t.Context(), sampler.Adapter{})
		if err == nil {
			_, err = b.Sample(t.Context(), p, r)
		}
		if !errors.Is(err, sampler.ErrCapability) || !strings.Contains(err.Error(), parameter) ||
			!strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v", parameter, err)
		}
	}
	r := request()
	r.TopK = 5
	f("top_k", "rollout.top_k", nil, r)
	r = request()
	r.Stop = []string{"\n"}
	f("stop", "rollout.stop", nil, r)
	f("chat_template_kwargs", "sampler.template_args", func(c *Config) {
		c.TemplateArgs = map[string]any{"enable_thinking": false}
	}, request())
}

func TestTemplateArgumentsAreSent(t *testing.T) {
	s := newFake(t, script)
	args := map[string]any{"enable_thinking": false, "effort": "low"}
	b := openFake(t, s, func(c *Config) { c.TemplateArgs = args })
	if _, err := b.Sample(t.Context(), publish(t, b), request()); err != nil {
		t.Fatal(err)
	}
	for i, r := range s.Requests() {
		if diff := cmp.Diff(args, r.TemplateArgs); diff != "" {
			t.Errorf("request %d: %s", i, diff)
		}
	}
}

// Errors do not contain the key, even if the server's answer does.
func TestTheKeyIsNotInErrors(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":{"message":"wrong key: ` + r.Header.Get("Authorization") + `"}}`))
	}))
	defer s.Close()
	_, err := Open(t.Context(), Config{URL: s.URL, Model: "m", APIKey: "sk-secret", RequestTimeout: time.Minute})
	if err == nil || strings.Contains(err.Error(), "sk-secret") ||
		!strings.Contains(err.Error(), "wrong key: Bearer [key]") {
		t.Errorf("got %v", err)
	}
}
