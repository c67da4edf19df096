package embed

import (
	"context"
	"fmt"

	"github.com/go-resty/resty/v2"

	"github.com/empo2/empo2/memory"
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
	web := resty.New().SetTransport(s.Transport).SetBaseURL(s.URL).SetDisableWarn(true)
	if s.APIKey != "" {
		web.SetAuthToken(s.APIKey)
	}
	o := &OpenAI{client{server: s, kind: "openai"}}
	o.ask = func(ctx context.Context, texts []string) ([][]float32, error) {
		return askOpenAI(ctx, web, s.Model, texts)
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
	Data []struct {
		Index     int       `json:"index"`
		Embedding []float32 `json:"embedding"`
	} `json:"data"`
}

func askOpenAI(ctx context.Context, web *resty.Client, model string, texts []string) ([][]float32, error) {
	var answer openAIResponse
	response, err := web.R().SetContext(ctx).
		SetBody(openAIRequest{Model: model, Input: texts, EncodingFormat: "float"}).
		SetResult(&answer).
		ForceContentType("application/json").
		Post("/v1/embeddings")
	if response != nil && response.StatusCode() != 0 && response.StatusCode() != 200 {
		return nil, &statusError{response.StatusCode(), excerpt(response.String())}
	}
	if err != nil {
		return nil, err
	}
	if len(answer.Data) != len(texts) {
		return nil, permanent{fmt.Errorf("%d vectors for %d texts", len(answer.Data), len(texts))}
	}
	vectors := make([][]float32, len(texts))
	for _, d := range answer.Data { // in any order
		if d.Index < 0 || d.Index >= len(vectors) || vectors[d.Index] != nil {
			return nil, permanent{fmt.Errorf("vector of index %d for %d texts, out of range or sent twice",
				d.Index, len(texts))}
		}
		vectors[d.Index] = d.Embedding
	}
	return vectors, nil
}

// excerpt keeps an error message readable when a server answers with a page.
func excerpt(text string) string {
	const limit = 300
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}
