package jsonhttp

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
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
	namesPrompt = regexp.MustCompile(`(?is)\b(prompt|inputs?|sequence|conversation|messages?|request|text)\b.*` +
		`(too (long|large|big|many tokens)|(longer|larger|more|greater) than|exceed|over the limit|must (be|have) ` +
		`(<=|less|fewer|at most|no more)|at most|up to|limited to|limit (is|of)|does not fit|do not fit|> ?\d)`)
	namesLength = regexp.MustCompile(`(?i)token|length|too long`)
	// Cohere: "too many tokens: …"; others: "99 tokens > 64".
	namesCounts = regexp.MustCompile(`(?is)^[\s"']*too many tokens|\d[\d,.]* tokens? ?(>|exceeds?|is (larger|more|longer))`)
	// namesReply matches refusals of the length of the reply that was asked for.
	namesReply = regexp.MustCompile(`(?i)\b(max_tokens|max_completion_tokens|max_new_tokens|max_output_tokens)\b.{0,40}` +
		`(too (large|high|small)|must be|at most|between|greater|less|not support|unsupported|invalid|exceed)|` +
		`completion tokens`)
	namesInput = regexp.MustCompile(`(?i)\b(inputs?|prompt)\b`)
	namesRate  = regexp.MustCompile(`(?i)per (minute|hour|day)|rate[ _-]?limit|quota`)
)

// ContextFull reports whether a server refused a request because the conversation does not fit its context. It reads
// the status, the code, the type and then the text of the answer.
func ContextFull(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range []string{e.Code, e.Type} {
		if e.Status > 0 && slices.Contains(contextCodes, strings.ToLower(code)) {
			return true
		}
	}
	if namesRate.MatchString(e.Code + " " + e.Type + " " + e.Message) {
		return false
	}
	switch {
	case e.Status == http.StatusRequestEntityTooLarge:
		return true
	case slices.Contains(otherStatuses, e.Status), e.Kind == Malformed:
		return false
	case e.Status/100 == 4, e.Status == http.StatusInternalServerError, // 500: older Ollama
		e.Status == http.StatusOK: // an error in an answer whose status is a success
		return namesContext.MatchString(e.Message) || !aboutReply(e.Message) &&
			(namesCounts.MatchString(e.Message) ||
				namesPrompt.MatchString(e.Message) && namesLength.MatchString(e.Message))
	}
	return false
}

// aboutReply reports whether a text is about the length of the reply alone.
func aboutReply(text string) bool {
	return namesReply.MatchString(text) && !namesInput.MatchString(text)
}

// otherStatuses are those of keys, payment, addresses and load.
var otherStatuses = []int{http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden,
	http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestTimeout, http.StatusTooManyRequests}
