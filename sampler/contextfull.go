package sampler

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// contextCodes are the codes and types of errors about a conversation that is too long: OpenAI and vLLM, llama-server,
// LiteLLM, GitHub Models, and OpenAI for a message above its limit of characters.
var contextCodes = []string{
	"context_length_exceeded", "exceed_context_size_error", "contextwindowexceedederror", "model_context_window_exceeded",
	"context_window_exceeded", "tokens_limit_reached", "string_above_max_length",
}

// Servers word this differently, and change the words. The patterns name what is too long and that it is.
var (
	namesContext = regexp.MustCompile(`(?i)context[ _-]?(length|len|size|window|limit)|contextwindow|` +
		`when context the overflow|max(imum)?[ _-](prompt|input|seq|sequence|model)[ _-](len|length|tokens)\b|` +
		`reduce the length`)
	namesPrompt = regexp.MustCompile(`(?i)\b(prompt|inputs?|sequence|conversation|messages?)\b.*` +
		`(too long|too large|too many tokens|longer than|exceed|must be <=)`)
	namesLength = regexp.MustCompile(`(?i)token|length|too long`)
	namesRate   = regexp.MustCompile(`(?i)per (minute|hour|day)|rate[ _-]?limit|quota`)
)

// ContextFull reports whether a server refused a request because the conversation does not fit its context. It reads
// the status, the code, the type and then the text of the answer.
func ContextFull(err error) bool {
	var e *jsonhttp.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range []string{e.Code, e.Type} {
		if e.Status >= http.StatusBadRequest && slices.Contains(contextCodes, strings.ToLower(code)) {
			return true
		}
	}
	if namesRate.MatchString(e.Code + " " + e.Type + " " + e.Message) {
		return false
	}
	switch e.Status {
	case http.StatusRequestEntityTooLarge:
		return true
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusInternalServerError: // 500: older Ollama
		return namesContext.MatchString(e.Message) ||
			namesPrompt.MatchString(e.Message) && namesLength.MatchString(e.Message)
	}
	return false
}
