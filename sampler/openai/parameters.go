package openai

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
)

// The parameters that a server may refuse, and that a request can do without. Those whose absence changes least come
// first: a refusal may name two of them.
const (
	seedParameter = "seed"
	topP          = "top_p"
	maxCompletion = "max_completion_tokens"
	maxTokens     = "max_tokens"
	temperature   = "temperature"
)

var optionalParameters = []string{seedParameter, topP, maxCompletion, maxTokens, temperature}

var (
	unsupportedWords = regexp.MustCompile(`(?i)support|unrecogni|unknown|unexpected|not permitted|not allowed|extra|` +
		`forbidden|instead|deprecated|additional propert|no such|cannot both be|cannot be (set|used|specified)|` +
		`invalid (field|param|argument)|only (the )?(default|[0-9.]+)\b|must be (equal to |exactly )?[0-9.]+(\W|$)`)
	rangeWords = regexp.MustCompile(`(?i)too (large|high|small|low)|at most|at least|below|above|minimum|exceed|` +
		`(less|greater|lower|higher) than|or (less|more)|between|strictly`)
)

// exchange sends the request and learns which optional parameters the server refuses.
func (b *Backend) exchange(ctx context.Context, r sampler.Request) (answer, error) {
	for {
		q := b.newRequest(r)
		var a answer
		err := b.client.call(ctx, "/chat/completions", q, &a)
		name := q.refused(err)
		if name == "" {
			return a, err
		}
		b.leaveOut(name, q)
	}
}

// sent says whether the request has an optional parameter.
func (q completionRequest) sent(name string) bool {
	return map[string]bool{
		seedParameter: q.Seed != nil, topP: q.TopP != nil, temperature: q.Temperature != nil,
		maxTokens: q.MaxTokens > 0, maxCompletion: q.MaxCompletion > 0,
	}[name]
}

// refused returns the optional parameter that the server does not support. It is empty for other errors, also for a
// value out of range. A server names the parameter in a field of its answer, or only in the text.
func (q completionRequest) refused(err error) string {
	var e *jsonhttp.Error
	if !errors.As(err, &e) || jsonhttp.ContextFull(err) ||
		e.Status != http.StatusBadRequest && e.Status != http.StatusUnprocessableEntity {
		return ""
	}
	text := e.Code + " " + e.Type + " " + e.Message
	if !unsupportedWords.MatchString(text) || rangeWords.MatchString(e.Message) {
		return ""
	}
	for _, name := range optionalParameters {
		if q.sent(name) && e.Names(name) {
			return name
		}
	}
	for _, name := range optionalParameters {
		if q.sent(name) && regexp.MustCompile(`\b`+name+`\b`).MatchString(e.Message) {
			return name
		}
	}
	return ""
}

// refusal identifies what is left out: a parameter, and the value of those that are refused by value.
func (q completionRequest) refusal(name string) string {
	switch name {
	case temperature:
		return fmt.Sprintf("%s = %v", name, *q.Temperature)
	case topP:
		return fmt.Sprintf("%s = %v", name, *q.TopP)
	}
	return name
}

// leaveOut records that the server refuses a parameter, and says once what follows.
func (b *Backend) leaveOut(name string, q completionRequest) {
	what := q.refusal(name)
	b.mu.Lock()
	known := slices.Contains(b.stats.LeftOut, what)
	if !known {
		b.stats.LeftOut = append(b.stats.LeftOut, what)
	}
	b.mu.Unlock()
	effect := "the server's own value applies"
	if !known && b.cfg.OnRefusal != nil {
		b.cfg.OnRefusal("the server refuses " + what + ", and it is no longer sent")
	}
	switch {
	case known, name == topP && *q.TopP == 1, name == temperature && *q.Temperature == 1: // the usual default
		return
	case name == maxTokens:
		b.cfg.Log.Info().Msg("openai: the server refuses max_tokens; max_completion_tokens is sent instead")
		return
	case name == seedParameter:
		effect = "replies are not repeatable"
	case name == maxCompletion:
		effect = "a longer reply than was asked for is an error"
	}
	b.cfg.Log.Warn().Msgf("openai: the server refuses %s, and it is no longer sent: %s", what, effect)
}

// newRequest makes a request without the parameters that the server refuses.
func (b *Backend) newRequest(r sampler.Request) completionRequest {
	p, seed := r.NucleusP(), sampler.ShortSeed(r.Seed)
	q := completionRequest{
		Model: b.cfg.Model, Messages: b.messages(r.Messages),
		Temperature: &r.Temperature, TopP: &p, TopK: r.TopK, Stop: r.Stop,
		MaxTokens: r.MaxTokens, Seed: &seed, TemplateArgs: b.cfg.TemplateArgs, limit: r.MaxTokens,
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	left := func(name string) bool { return slices.Contains(b.stats.LeftOut, q.refusal(name)) }
	if left(temperature) {
		q.Temperature = nil
	}
	if left(topP) {
		q.TopP = nil
	}
	if left(seedParameter) {
		q.Seed = nil
	}
	if left(maxTokens) {
		q.MaxTokens, q.MaxCompletion = 0, r.MaxTokens
	}
	if left(maxCompletion) {
		q.MaxCompletion = 0
	}
	return q
}
