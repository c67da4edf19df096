package embed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// Server has the address and the limits of an embedding server.
type Server struct {
	// URL without the path of the interface: "http://127.0.0.1:11434" or
	// "https://api.openai.com".
	URL   string
	Model string
	// APIKey is sent as a bearer token if it is not empty (OpenAI only).
	APIKey string
	// Timeout is the deadline of one request. Default 30 s.
	Timeout time.Duration
	// Batch is the largest number of texts in a request. Default 64.
	Batch int
	// Attempts is how often a request is sent while the server is overloaded
	// (429), fails (5xx) or cannot be reached. Default 5. The pauses between the
	// attempts are about 0.25 s, 0.5 s, 1 s, … up to 8 s, or as long as the
	// server asks for.
	Attempts int
	// Transport replaces the network in tests.
	Transport http.RoundTripper
}

func (s Server) withDefaults() (Server, error) {
	switch {
	case s.URL == "":
		return s, errors.New("the URL of the embedding server is empty")
	case s.Model == "":
		return s, errors.New("the model of the embedding server is empty")
	case s.Timeout < 0 || s.Batch < 0 || s.Attempts < 0:
		return s, fmt.Errorf("timeout %v, batch %d or attempts %d is negative", s.Timeout, s.Batch, s.Attempts)
	}
	if s.Timeout == 0 {
		s.Timeout = 30 * time.Second
	}
	if s.Batch == 0 {
		s.Batch = 64
	}
	if s.Attempts == 0 {
		s.Attempts = 5
	}
	s.URL = strings.TrimRight(s.URL, "/")
	return s, nil
}

// connect prepares a client for a server of the given kind.
func (s Server) connect(kind string) (*jsonhttp.Client, error) {
	return jsonhttp.New(jsonhttp.Config{URL: s.URL, Server: kind, Key: s.APIKey, Transport: s.Transport,
		ErrorsInAnswers: true})
}

// again reports whether the server may answer differently next time.
func again(err error) bool { return jsonhttp.Retryable(err) || jsonhttp.Status(err) >= 500 }

// A client asks a server in batches and checks its answers. ask sends one
// request.
type client struct {
	server    Server
	web       *jsonhttp.Client
	kind      string
	dimension int // 0 until the first answer, at opening
	ask       func(ctx context.Context, texts []string) ([][]float32, error)

	mu    sync.Mutex
	model string // that has answered; empty: no answer has named one
}

// answeredBy returns an error if another model answers than before: vectors of two models
// cannot be compared. A proxy may replace a model.
func (c *client) answeredBy(model string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if model == "" || model == c.model {
		return nil
	}
	if c.model != "" {
		return fmt.Errorf("the model %q answers, and %q did before\n"+
			"  hint: the server must answer with one model; memory.url and memory.model name them", model, c.model)
	}
	c.model = model
	return nil
}

// open requests one vector. So it checks that the server can be used, and learns the
// dimension.
func (c *client) open(ctx context.Context) error {
	vectors, err := c.Embed(ctx, "a room with one door")
	if err != nil {
		return fmt.Errorf("%w (is the server running, and does it have the model?)", err)
	}
	c.dimension = len(vectors[0])
	return nil
}

// Name implements [memory.Embedder].
func (c *client) Name() string {
	return fmt.Sprintf("%s:%s-%d", c.kind, c.server.Model, c.dimension)
}

// Embed implements [memory.Embedder]. An empty text has the zero vector and
// is not sent, as servers refuse it.
func (c *client) Embed(ctx context.Context, texts ...string) ([][]float32, error) {
	vectors := make([][]float32, len(texts))
	var filled []int // indices of the texts to send
	for i, text := range texts {
		if strings.TrimSpace(text) == "" {
			vectors[i] = make([]float32, c.dimension)
		} else {
			filled = append(filled, i)
		}
	}
	for len(filled) > 0 {
		n := min(len(filled), c.server.Batch)
		batch := make([]string, n)
		for i, place := range filled[:n] {
			batch[i] = strings.ToValidUTF8(texts[place], "\uFFFD")
		}
		answer, err := c.cutting(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("embed %d texts at %s with %s: %w", n, safetext.URL(c.server.URL), c.server.Model, err)
		}
		for i, place := range filled[:n] {
			vectors[place] = answer[i]
		}
		filled = filled[n:]
	}
	return vectors, nil
}

// cutting sends a batch. If a text is longer than the server's context, cutting embeds the
// first halves of the long texts, then of these. Ollama cuts such texts itself.
func (c *client) cutting(ctx context.Context, batch []string) ([][]float32, error) {
	longest := 0
	for _, text := range batch {
		longest = max(longest, len(text))
	}
	for limit := longest; ; limit /= 2 {
		cut := make([]string, len(batch))
		for i, text := range batch {
			cut[i] = strings.ToValidUTF8(text[:min(limit, len(text))], "")
		}
		vectors, err := c.retry(ctx, cut)
		if limit < 2*shortestText || !jsonhttp.ContextFull(err) {
			return vectors, err
		}
	}
}

// shortestText is a length in bytes that fits every server. Texts are cut to it at most.
const shortestText = 64

// retry sends a batch until there is an answer.
func (c *client) retry(ctx context.Context, batch []string) (vectors [][]float32, err error) {
	r := jsonhttp.Retry{First: 250 * time.Millisecond, Last: 8 * time.Second, Attempts: c.server.Attempts, Again: again}
	err = r.Do(ctx, func(ctx context.Context) error {
		vectors, err = c.once(ctx, batch)
		return err
	})
	return vectors, err
}

// once sends a batch and checks the answer.
func (c *client) once(ctx context.Context, batch []string) ([][]float32, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.server.Timeout, fmt.Errorf("no answer within %v", c.server.Timeout))
	defer cancel()
	vectors, err := c.ask(ctx, batch)
	if err != nil {
		return nil, err
	}
	return vectors, c.check(vectors, len(batch))
}

// check validates an answer and scales its vectors to unit length.
func (c *client) check(vectors [][]float32, want int) error {
	if len(vectors) != want {
		return fmt.Errorf("%d vectors for %d texts", len(vectors), want)
	}
	dimension := c.dimension
	if dimension == 0 {
		dimension = len(vectors[0])
	}
	for i, v := range vectors {
		if len(v) != dimension || dimension == 0 {
			return fmt.Errorf("vector %d has %d dimensions, want %d", i, len(v), dimension)
		}
		var sum float64
		for _, f := range v {
			sum += float64(f) * float64(f)
		}
		length := math.Sqrt(sum)
		if !(length > 1e-12) || math.IsInf(length, 0) {
			return fmt.Errorf("vector %d has length %v", i, length)
		}
		for j := range v {
			v[j] = float32(float64(v[j]) / length)
		}
	}
	return nil
}

// Close releases idle connections.
func (c *client) Close() error {
	c.web.Close()
	return nil
}
