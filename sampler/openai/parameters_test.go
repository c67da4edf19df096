package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// newPicky starts a server that calls refuse with each body, and sends what it returns as an error. Otherwise it
// answers with content. bodies has the accepted bodies.
func newPicky(t *testing.T, refuse func(body map[string]any) (int, string), content string) (
	string, *[]map[string]any) {
	var bodies []map[string]any
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/models") {
			http.NotFound(w, r)
			return
		}
		var body map[string]any
		_ = json.NewDecoder(r.Body).Decode(&body)
		if status, text := refuse(body); status > 0 {
			w.WriteHeader(status)
			fmt.Fprint(w, text)
			return
		}
		bodies = append(bodies, body)
		fmt.Fprintf(w, `{"model": "m", "choices": [{"finish_reason": "stop", "message": {"content": %s}}]}`, content)
	}))
	t.Cleanup(s.Close)
	return s.URL, &bodies
}

// A parameter that the server refuses is left out, in the probe and in all later requests, and is said once.
func TestRefusedParametersAreLeftOut(t *testing.T) {
	f := func(status int, text string, left []string, warning string, refuse func(map[string]any) bool) {
		t.Helper()
		refusals := 0
		url, bodies := newPicky(t, func(body map[string]any) (int, string) {
			if !refuse(body) {
				return 0, ""
			}
			refusals++
			return status, text
		}, `"yes"`)
		var log bytes.Buffer
		var told []string
		b, err := Open(t.Context(), Config{URL: url, Model: "m", RequestTimeout: time.Minute, Log: zerolog.New(&log),
			OnRefusal: func(what string) { told = append(told, what) }})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		p := publish(t, b)
		for range 2 {
			r := request()
			r.Temperature, r.TopP = 0.5, 0.9
			if _, err := b.Sample(t.Context(), p, r); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(left, b.Stats().LeftOut); diff != "" || len(*bodies) != 3 || refusals != len(left) {
			t.Errorf("%s\n%d refusals, %d answers", diff, refusals, len(*bodies))
		}
		if len(told) != len(left) || !strings.Contains(told[0], left[0]) {
			t.Errorf("told %q", told)
		}
		if strings.Count(log.String(), warning) != 1 || warning == "" {
			t.Errorf("log %s, want %q", &log, warning)
		}
	}
	has := func(names ...string) func(map[string]any) bool {
		return func(body map[string]any) bool {
			for _, name := range names {
				if body[name] != nil {
					return true
				}
			}
			return false
		}
	}
	f(422, `{"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}`, []string{"seed"},
		"not repeatable", has("seed"))
	f(400, `{"error": {"message": "That is unsupported", "code": "unsupported_value", "param": "temperature"}}`,
		[]string{"temperature = 0.5"}, "refuses temperature = 0.5", func(body map[string]any) bool {
			return body["temperature"] != nil && body["temperature"] != 1.0
		})
	f(400, `{"error": {"message": "invalid temperature: only 1 is allowed for this model"}}`,
		[]string{"temperature = 0.5"}, "refuses temperature = 0.5", func(body map[string]any) bool {
			return body["temperature"] != nil && body["temperature"] != 1.0
		})
	f(400, `[{"error": {"code": 400, "message": "Invalid JSON payload. Unknown name \"seed\": Cannot find field."}}]`,
		[]string{"seed"}, "not repeatable", has("seed"))
	f(400, `{"error": {"message": "temperature must be 1."}}`,
		[]string{"temperature = 0.5"}, "refuses temperature = 0.5", func(body map[string]any) bool {
			return body["temperature"] != nil && body["temperature"] != 1.0
		})
	f(400, `{"error": "Unsupported parameter: 'top_p' is not supported with this model."}`,
		[]string{"top_p = 1", "top_p = 0.9"}, "refuses top_p = 0.9", has("top_p"))
	f(400, "{\"error\": {\"message\": \"`temperature` and `top_p` cannot both be specified for this model.\"}}",
		[]string{"top_p = 1", "top_p = 0.9"}, "refuses top_p = 0.9", has("top_p"))
	f(400, `{"message": "unknown field max_tokens or max_completion_tokens"}`,
		[]string{"max_tokens", "max_completion_tokens"},
		"longer reply", has("max_tokens", "max_completion_tokens"))
}

// A value out of range, an unknown model and a busy server are errors, and nothing is learnt from them.
func TestOtherRefusalsTeachNothing(t *testing.T) {
	f := func(status int, text string) {
		t.Helper()
		n := 0
		url, _ := newPicky(t, func(map[string]any) (int, string) { n++; return status, text }, `"yes"`)
		b, err := Open(t.Context(), Config{URL: url, Model: "m", RequestTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if _, err := b.Publish(t.Context(), sampler.Adapter{}); err == nil || n != 1 || b.Stats().LeftOut != nil {
			t.Errorf("%v after %d requests, left out %v", err, n, b.Stats().LeftOut)
		}
	}
	f(400, `{"error": {"message": "temperature must be between 0 and 0.9", "param": "temperature"}}`)
	f(422, `{"error": "Input validation error: temperature must be strictly positive", "error_type": "validation"}`)
	f(400, `{"error": {"message": "temperature must be 1 or less"}}`)
	f(400, `{"error": {"message": "max_tokens is too large: 16. This model supports at most 8 completion tokens"}}`)
	f(404, `{"error": {"message": "the model does not support temperature"}}`)
	f(403, `{"error": {"message": "your plan does not support seed"}}`)
}

// The text of an answer may be a list of parts. Thoughts are dropped.
func TestContentAsParts(t *testing.T) {
	f := func(content, want string) {
		t.Helper()
		url, _ := newPicky(t, func(map[string]any) (int, string) { return 0, "" }, content)
		b, err := Open(t.Context(), Config{URL: url, Model: "m", RequestTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if c, err := b.Sample(t.Context(), publish(t, b), request()); err != nil || c.Text != want {
			t.Errorf("%s: %q, %v", content, c.Text, err)
		}
	}
	f(`[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "pull "},
		{"type": "text", "text": "jade"}]`, "pull jade")
	f(`[{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "pull"}]`, "pull")
	f(`["pull ", "jade"]`, "pull jade")
	f(`{"type": "text", "text": "pull jade"}`, "pull jade")
	f(`[null, {"type": "text", "text": null}, {"type": "image_url", "image_url": {"url": "x"}}]`, "")
	f(`[]`, "")
	f(`null`, "")
	f(`"pull"`, "pull")
}

// Servers have words of their own for a reply that reached a limit.
func TestFinishReasons(t *testing.T) {
	for reason, want := range map[string]bool{"stop": false, "length": true, "": true, "model_length": true,
		"max_tokens": true, "MAX_TOKENS": true, "max_output_tokens": true, "model_context_window_exceeded": true,
		"content_filter": false, "tool_calls": false, "STOP": false, "eos_token": false, "end_turn": false} {
		if got := cutOff(reason); got != want {
			t.Errorf("%q: cut off: %v", reason, got)
		}
	}
}

// A model that the server does not list is tried. An answer of a listed model in its place is refused.
func TestAModelThatIsNotListedIsTried(t *testing.T) {
	f := func(model, answers, want, warning string) {
		t.Helper()
		s := newFake(t, samplertest.Say("pull"))
		s.Model, s.Answers = model, answers
		s.Listed = "tiny"
		var log bytes.Buffer
		b := openFake(t, s, func(c *Config) { c.Model, c.Log = model, zerolog.New(&log) })
		_, err := b.Publish(t.Context(), sampler.Adapter{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) ||
			!strings.Contains(log.String(), warning) || warning == "" && log.Len() > 0 {
			t.Errorf("%s: %v, log %s", model, err, &log)
		}
	}
	f("tiny", "tiny", "", "")
	f("tiny", "tiny-2026-08", "", "")
	f("tiny", "large", "", `\"large\" answers, \"tiny\" was asked for`)
	f("openai/hidden", "hidden-2026", "", "does not list the model")
	f("openai/hidden", "tiny", `no model "openai/hidden" and answers with "tiny"`, "does not list the model")
}
