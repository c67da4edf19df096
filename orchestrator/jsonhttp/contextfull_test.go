package jsonhttp

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A full context is recognised in the answers of many servers, and other refusals are not taken for one.
func TestContextFull(t *testing.T) {
	status, body := 0, ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer s.Close()
	c, err := New(Config{URL: s.URL, Server: "a server", Transport: NewTransport(1),
		ErrorsInAnswers: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := func(want bool, code int, text string) {
		t.Helper()
		status, body = code, text
		err := c.Call(t.Context(), Request{Path: "/", Body: 1}, nil)
		if err == nil || ContextFull(fmt.Errorf("wrapped: %w", err)) != want {
			t.Errorf("%d %s: not %v (%v)", code, text, want, err)
		}
	}
	message := func(text string) string { return fmt.Sprintf(`{"error": {"message": %q}}`, text) }
	full := func(code int, text string) { t.Helper(); f(true, code, text) }
	full(400, `{"error": {"message": "Zu lang.", "code": "context_length_exceeded"}}`)
	full(400, `{"error": {"message": "x", "type": "exceed_context_size_error", "code": 400, "n_ctx": 64}}`)
	full(413, `{"error": {"message": "Request body too large", "code": "tokens_limit_reached"}}`)
	full(413, `<html><title>413 Request Entity Too Large</title></html>`)
	full(400, message("This model's maximum context length is 64 tokens. However, you requested 99 tokens."))
	full(400, message("The decoder prompt (length 99) is longer than the maximum model length of 64."))
	full(400, message("The input (99 tokens) is longer than the model's context length (64 tokens)."))
	full(400, message("the request exceeds the available context size, try increasing it"))
	full(400, `{"error": "the input length exceeds the context length"}`)
	full(500, `{"error": "input exceeds maximum context length"}`)
	full(400, message("Requested tokens (99) exceed context window of 64"))
	full(400, message("prompt is too long: 99 tokens > 64 maximum"))
	full(400, message("The input token count (99) exceeds the maximum number of tokens allowed (64)."))
	full(422, `{"error": "Input validation error: `+"`inputs` tokens + `max_new_tokens` must be <= 64"+`"}`)
	full(400, message("Trying to keep the first 99 tokens when context the overflows."))
	full(400, message("This model's maximum prompt length is 64 but the request contains 99 tokens."))
	full(400, message("Please reduce the length of the messages or completion."))
	full(422, `{"detail": "ContextWindowExceededError: the prompt does not fit"}`)
	full(400, message("Input validation error: `inputs` must have less than 64 tokens. Given: 99"))
	full(400, `{"message": "too many tokens: size limit exceeded by 35 tokens. Try using shorter or fewer inputs."}`)
	full(400, message("Prompt length 99 is greater than max_seq_len 64"))
	full(400, message("Prompt contains 99 tokens and 0 draft tokens, too large for model with 64 maximum context length"))
	full(400, message("Your request has 99 tokens, but the model accepts at most 64."))
	full(400, message("99 tokens > 64 maximum"))
	full(400, message("Prompt:\n...\nis too long for this model (99 tokens)"))
	full(400, `[{"error": {"code": 400, "message": "The input token count (99) exceeds the maximum of 64.", "status": "X"}}]`)
	full(400, `{"object": "error", "message": "Zu lang.", "code": "context_length_exceeded"}`)
	full(409, message("The conversation does not fit: 99 tokens of 64"))
	full(400, message("max_tokens=20 cannot be greater than the context window: 50 input tokens of 64"))
	full(200, `{"error": {"message": "the prompt is too long: 99 tokens, 64 allowed", "code": 400}}`)
	full(200, `{"error": "input length exceeds the context length"}`)

	other := func(code int, text string) { t.Helper(); f(false, code, text) }
	other(401, message("This key's maximum context length is 0"))
	other(404, message("The prompt template is too long ago"))
	other(429, message("Request too large: 99 tokens per minute exceed the limit of your context window"))
	other(413, `{"error": {"message": "Request too large: tokens per minute", "code": "rate_limit_exceeded"}}`)
	other(400, message("max_tokens is too large: 99. This model supports at most 64 completion tokens"))
	other(400, message("'temperature' does not support 0 with this model."))
	other(400, message("Input should be a valid string"))
	other(500, message("CUDA out of memory"))
	other(400, message("max_tokens must be at most 64, the request has 99"))
	other(400, message("Unsupported parameter: 'max_tokens' is not supported with this model."))
	other(400, message("messages must have at least 1 message"))
	other(402, message("This request requires more credits, or fewer max_tokens. You requested up to 99 tokens"))
	other(403, message("The prompt has more than 64 tokens, which your plan does not allow"))
	other(200, `{"error": {"message": "overloaded", "code": 503}}`)
	other(400, message("Invalid value for 'stop': array too long. Expected an array with at most 4 elements"))
}
