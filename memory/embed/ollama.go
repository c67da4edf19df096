package embed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/ollama/ollama/api"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// Ollama embeds with an Ollama server.
type Ollama struct{ client }

var _ memory.Embedder = (*Ollama)(nil)

// OpenOllama asks s for one vector and returns an embedder that uses it.
func OpenOllama(ctx context.Context, s Server) (*Ollama, error) {
	s, err := s.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open Ollama embedder: %w", err)
	}
	base, err := url.Parse(s.URL)
	if err != nil {
		return nil, fmt.Errorf("open Ollama embedder: %w", err)
	}
	s.APIKey = ""
	web, err := s.connect("Ollama")
	if err != nil {
		return nil, fmt.Errorf("open Ollama embedder: %w", err)
	}
	server := api.NewClient(base, web.HTTP())
	o := &Ollama{client{server: s, web: web, kind: "ollama"}}
	o.ask = func(ctx context.Context, texts []string) ([][]float32, error) {
		answer, err := server.Embed(ctx, &api.EmbedRequest{Model: s.Model, Input: texts})
		if err != nil {
			return nil, failure(ctx, web, err)
		}
		return answer.Embeddings, o.answeredBy(answer.Model)
	}
	if err := o.open(ctx); err != nil {
		o.Close()
		return nil, fmt.Errorf("open Ollama embedder: %w", err)
	}
	return o, nil
}

// failure classifies an error of Ollama's own client.
func failure(ctx context.Context, web *jsonhttp.Client, err error) *jsonhttp.Error {
	var refused api.StatusError
	var unknown api.AuthorizationError
	var e *jsonhttp.Error
	switch {
	case errors.As(err, &refused):
		e = web.Refusal(refused.StatusCode, http.Header{}, []byte(refused.ErrorMessage))
	case errors.As(err, &unknown):
		e = web.Refusal(http.StatusUnauthorized, http.Header{}, nil)
	default:
		e = web.Failure(ctx, err)
	}
	e.Op = "POST /api/embed"
	return e
}
