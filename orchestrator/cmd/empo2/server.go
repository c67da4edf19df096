package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/rollout"
)

// requirements returns what a run with this configuration needs from its server.
// Episodes that no run trains on need less.
func (o opening) requirements(s served, can sampler.Capabilities) sampler.Requirements {
	c := o.config
	n := sampler.Requirements{
		Context: max(c.Rollout.MaxTokens, c.Reflection.MaxTokens) + shortestPrompt, Stop: len(c.Rollout.Stop) > 0,
	}
	if !trains(c) || o.untrained {
		return n
	}
	n.IDs, n.Logprobs, n.Adapters = !s.retokenized, !s.retokenized, true
	n.Formats, n.Rank = c.Sampler.AdapterFormats(), c.Trainer.Rank
	if can.Adapters == "runtime" {
		n.Resident = 2 // the new version passes its canary while the old one is still served
	}
	return n
}

// shortestPrompt is the number of tokens that a server must leave for a prompt.
const shortestPrompt = 64

// serverError is an error of the inference server, or of the flags that it was
// started with.
type serverError struct{ err error }

func (e *serverError) Error() string { return e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// openServer opens the backend that the configuration names. It returns an error
// if the server does not meet the requirements of the run.
func openServer(ctx context.Context, o opening) (served, error) {
	s, err := backends[o.config.Sampler.Backend].open(ctx, o)
	if err != nil {
		return served{}, &serverError{err}
	}
	can, err := s.Capabilities(ctx)
	if err == nil {
		err = o.requirements(s, can).Check(can)
	}
	if err != nil {
		return served{}, errors.Join(&serverError{fmt.Errorf("backend %s: %w", o.config.Sampler.Backend, err)},
			s.Close())
	}
	return s, nil
}

// serveBase has the base model served.
func (s served) serveBase(ctx context.Context) error {
	defer watchdog.Begin(ctx, "server", "publish the base model", 0)()
	if _, err := s.Publish(ctx, sampler.Adapter{}); err != nil {
		return fmt.Errorf("serve the base model: %w", err)
	}
	return nil
}

// newTemplate returns the chat template, or nil if the server takes messages.
func (s served) newTemplate(ctx context.Context, c config.Config) (*chat.Template, error) {
	if s.tokenizer == nil {
		return nil, nil
	}
	defer watchdog.Begin(ctx, "server", "verify the chat template", 0)()
	name := c.Sampler.Template
	if name == chat.TemplateAuto && s.renderer == nil {
		return nil, &config.Error{Place: "sampler.template", Msg: "the server does not provide its chat template",
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

// newDriver returns a driver for the server, without environment and prompt
// template. The chat template is nil if the server takes messages.
func (s served) newDriver(c config.Config, template *chat.Template) *rollout.Driver {
	d := &rollout.Driver{
		Backend: s.Backend, ChatTemplate: template, Thinking: chat.Thinking(c.Sampler.Thinking),
		Retokenized: s.retokenized, SampleTimeout: sampleTimeout(c), CleanTip: memory.CleanTip,
	}
	switch { // servers that take text parse control tokens in it
	case template == nil:
		d.Neutralize = chat.ControlTexts()
	case s.retokenized:
		d.Neutralize = template.ControlTexts()
	}
	return d
}

// sampleTimeout bounds a request, including its wait for the requests of other
// episodes and reflections. The backend's own deadline starts when the request is
// sent.
func sampleTimeout(c config.Config) time.Duration {
	queue := 2 * c.Rollout.Concurrency / (c.Sampler.Concurrency * c.Sampler.Replicas())
	return seconds(c.Sampler.TimeoutSeconds * float64(2+queue))
}
