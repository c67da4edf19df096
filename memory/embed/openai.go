package embed

import (
	"cmp"
	"context"
	"fmt"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// OpenAI embeds with a server that speaks OpenAI's /v1/embeddings, as vLLM,
// llama-server and many others do.
type OpenAI struct{ client }

var _ memory.Embedder = (*OpenAI)(nil)

// OpenOpenAI asks s for one vector and returns an embedder that uses it.
func OpenOpenAI(ctx context.Context, s Server) (*OpenAI, error) {
	s, err := s.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open OpenAI embedder: %w", err)
	}
	web, err := s.connect("an OpenAI-compatible server")
	if err != nil {
		return nil, fmt.Errorf("open OpenAI embedder: %w", err)
	}
	o := &OpenAI{client{server: s, web: web, kind: "openai"}}
	o.ask = func(ctx context.Context, texts []string) ([][]float32, error) {
		vectors, model, err := askOpenAI(ctx, web, s.Model, texts)
		return vectors, cmp.Or(err, o.answeredBy(model))
	}
	if err := o.open(ctx); err != nil {
		o.Close()
		return nil, fmt.Errorf("open OpenAI embedder: %w", err)
	}
	return o, nil
}

type openAIRequest struct {
	Model          string   `json:"model"`
	Input          []string `json:"input"`
	EncodingFormat string   `json:"encoding_format"`
}

type openAIResponse struct {
	Model string `json:"model"`
	Data  []struct {
		Index     int       `json:"index"`
		Embedding []float32 `json:"embedding"`
	} `json:"data"`
}

func askOpenAI(ctx context.Context, web *jsonhttp.Client, model string, texts []string) (
	vectors [][]float32, answered string, err error) {
	var answer openAIResponse
	body := openAIRequest{Model: model, Input: texts, EncodingFormat: "float"}
	if err := web.Call(ctx, jsonhttp.Request{Path: "/v1/embeddings", Body: body}, &answer); err != nil {
		return nil, "", err
	}
	if len(answer.Data) != len(texts) {
		return nil, "", fmt.Errorf("%d vectors for %d texts", len(answer.Data), len(texts))
	}
	vectors = make([][]float32, len(texts))
	for _, d := range answer.Data { // in any order
		if d.Index < 0 || d.Index >= len(vectors) || vectors[d.Index] != nil {
			return nil, "", fmt.Errorf("vector of index %d for %d texts, out of range or sent twice", d.Index, len(texts))
		}
		vectors[d.Index] = d.Embedding
	}
	return vectors, answer.Model, nil
}
