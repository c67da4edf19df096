package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/llamacpp"
)

// An opening is what a backend is opened with.
type opening struct {
	config config.Config
	tools  tools
	// restarted is told when a server that serves a policy was replaced.
	restarted func(sampler.Policy)
	log       zerolog.Logger
}

// served is an open backend with what its prompts are made of.
type served struct {
	sampler.Backend
	tokenizer sampler.Tokenizer
	control   sampler.ControlTokens
}

// backends are the inference servers by their name in config.toml.
var backends = map[string]func(context.Context, opening) (served, error){
	"llamacpp": openLlamaCPP,
}

func openLlamaCPP(ctx context.Context, o opening) (served, error) {
	s := o.config.Sampler.LlamaCPP
	b, err := llamacpp.Open(ctx, llamacpp.Config{
		Python: o.tools.python, Binary: s.Binary, Args: s.Args, BaseGGUF: o.tools.gguf, ContextPerSlot: s.Context, Slots: s.Slots, Threads: s.Threads, BatchThreads: s.Threads,
		ExactLogprobs: s.ExactLogprobs, RequestTimeout: seconds(s.TimeoutSeconds), OnRestart: o.restarted, Log: o.log,
	})
	return served{b, b, b}, err
}

// trains reports whether a run changes weights, for which it has a trainer.
func trains(c config.Config) bool { return c.Algorithm.Name != "adapt" }

// needs is what a run with this configuration asks of its server.
func needs(c config.Config) sampler.Needs {
	if !trains(c) {
		return sampler.Needs{}
	}
	return sampler.Needs{IDs: true, Logprobs: true, Adapters: true, Formats: c.Trainer.Formats, Rank: c.Trainer.Rank}
}

// openServer opens the backend that the configuration names and refuses a
// server that cannot do what the run needs.
func openServer(ctx context.Context, o opening) (served, error) {
	s, err := backends[o.config.Sampler.Backend](ctx, o)
	if err != nil {
		return served{}, err
	}
	can, err := s.Capabilities(ctx)
	if err == nil {
		err = needs(o.config).Check(can)
	}
	if err != nil {
		return served{}, errors.Join(fmt.Errorf("backend %s: %w", o.config.Sampler.Backend, err), s.Close())
	}
	return s, nil
}
