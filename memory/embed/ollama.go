package embed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/ollama/ollama/api"

	"github.com/empo2/empo2/memory"
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
	web := api.NewClient(base, &http.Client{Transport: s.Transport})
	o := &Ollama{client{server: s, kind: "ollama"}}
	o.ask = func(ctx context.Context, texts []string) ([][]float32, error) {
		answer, err := web.Embed(ctx, &api.EmbedRequest{Model: s.Model, Input: texts})
		var status api.StatusError
		if errors.As(err, &status) {
			return nil, &statusError{status.StatusCode, excerpt(status.ErrorMessage)}
		}
		if err != nil {
			return nil, err
		}
		return answer.Embeddings, nil
	}
	if err := o.open(ctx); err != nil {
		o.Close()
		return nil, fmt.Errorf("open Ollama embedder: %w", err)
	}
	return o, nil
}
