package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// needs is what a run with this configuration asks of its server.
func needs(c config.Config, s served, can sampler.Capabilities) sampler.Requirements {
	n := sampler.Requirements{
		Context: max(c.Rollout.MaxTokens, c.Reflection.MaxTokens) + shortestPrompt, Stop: len(c.Rollout.Stop) > 0,
	}
	if !trains(c) {
		return n
	}
	n.IDs, n.Logprobs, n.Adapters = !s.retokenised, !s.retokenised, true
	n.Formats, n.Rank = c.Sampler.AdapterFormats(), c.Trainer.Rank
	if can.Adapters == "runtime" {
		n.Resident = 2 // the new version is proved beside the old one
	}
	return n
}

// shortestPrompt is how many tokens are left for a prompt at least.
const shortestPrompt = 64

// serverError is a fault of the inference server or of what it was started with.
type serverError struct{ err error }

func (e *serverError) Error() string { return e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// openServer opens the backend that the configuration names and refuses a
// server that cannot do what the run needs.
func openServer(ctx context.Context, o opening) (served, error) {
	s, err := backends[o.config.Sampler.Backend].open(ctx, o)
	if err != nil {
		return served{}, &serverError{err}
	}
	can, err := s.Capabilities(ctx)
	if err == nil {
		err = needs(o.config, s, can).Check(can)
	}
	if err != nil {
		return served{}, errors.Join(&serverError{fmt.Errorf("backend %s: %w", o.config.Sampler.Backend, err)},
			s.Close())
	}
	return s, nil
}

// newTemplate is the template of the conversation; nil for servers of text.
func (s served) newTemplate(ctx context.Context, c config.Config) (*chat.Template, error) {
	if s.tokenizer == nil {
		return nil, nil
	}
	name := c.Sampler.Template
	if name == chat.TemplateAuto && s.renderer == nil {
		return nil, &config.Error{Place: "sampler.template", Msg: "the server does not tell its template",
			Hint: "name it, for example --set sampler.template=chatml"}
	}
	tokenizer := chat.CachedTokenizer(s.tokenizer, 1<<14)
	t, err := chat.NewTemplate(ctx, name, tokenizer, s.control, s.renderer)
	if err != nil {
		return nil, err
	}
	if c.Sampler.Thinking == string(chat.ThinkingStrip) {
		return t, t.CanStrip()
	}
	return t, nil
}

// sampleTimeout bounds a request with its wait for a place, behind all the
// episodes and reflections that may stand before it; the backend's own
// deadline begins when the request is sent.
func sampleTimeout(c config.Config) time.Duration {
	queue := 2 * c.Rollout.Concurrency / (c.Sampler.Concurrency * c.Sampler.Replicas())
	return seconds(c.Sampler.TimeoutSeconds * float64(2+queue))
}
