package vllm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/fleet"
)

var (
	_ fleet.Server  = (*server)(nil)
	_ fleet.Sleeper = (*server)(nil)
)

// server is the client of one vLLM server, tested with recordings of version
// 0.32.0.
type server struct {
	*fleet.Client
	model string // the base model's name; empty: the only one
	key   string // the API key; empty: none
	salt  string // of prefix caches; empty: none is sent
}

// LoadAdapter returns when the engine has loaded the adapter.
func (s *server) LoadAdapter(ctx context.Context, name, dir string) error {
	err := s.Call(ctx, "/v1/load_lora_adapter", map[string]string{"lora_name": name, "lora_path": dir}, nil)
	switch {
	case err == nil:
		return nil
	case jsonhttp.Status(err) == http.StatusBadRequest &&
		strings.Contains(jsonhttp.ServerText(err), "has already been loaded"):
		return fmt.Errorf("%w: %w", fleet.ErrLoaded, err)
	}
	if jsonhttp.Status(err) == 0 {
		return err
	}
	return fleet.WithHint(err, loadHints)
}

// UnloadAdapter removes the name. The engine keeps the adapter in memory until it
// needs the space.
func (s *server) UnloadAdapter(ctx context.Context, name string) error {
	return s.Call(ctx, "/v1/unload_lora_adapter", map[string]string{"lora_name": name}, nil)
}

const otherBaseHint = "the adapter belongs to another base model: serve the model that the trainer trains"

// loadHints are remedies for the server's answers to a load.
var loadHints = []process.Hint{
	{Contains: "greater than max_lora_rank", Remedy: rankHint},
	{Contains: "No adapter found",
		Remedy: "the server reads the directory itself: the same path must exist on its machine, and its user must be " +
			"able to read the files"},
	{Contains: notEnabled, Remedy: adaptersHint},
	{Contains: "Not Found", Remedy: adaptersHint},
	{Contains: "size mismatch", Remedy: otherBaseHint},
	{Contains: "shape", Remedy: otherBaseHint},
	{Contains: "add_lora",
		Remedy: "read the reason in the server's log; the adapter may belong to another base model, or have modules " +
			"that vLLM does not adapt"},
}

// Load returns the engine's gauges, summed over its parts.
func (s *server) Load(ctx context.Context) (l fleet.Load, err error) {
	text, err := s.metrics(ctx)
	if err != nil {
		return l, err
	}
	running, known := gauge(text, "vllm:num_requests_running")
	waiting, also := gauge(text, "vllm:num_requests_waiting")
	if !known || !also {
		return l, fmt.Errorf("%w: /metrics does not say how many requests run and wait", errors.ErrUnsupported)
	}
	return fleet.Load{Running: int(running), Waiting: int(waiting)}, nil
}

func (s *server) metrics(ctx context.Context) (string, error) {
	var text string
	err := s.Call(ctx, "/metrics", nil, &text)
	if jsonhttp.Status(err) == http.StatusNotFound {
		return "", fmt.Errorf("%w: no /metrics", errors.ErrUnsupported)
	}
	return text, err
}

// gauge sums the values of a metric.
func gauge(text, name string) (sum float64, known bool) {
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || !strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, " ") {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err == nil && value >= 0 && value < 1e9 {
			sum, known = sum+value, true
		}
	}
	return sum, known
}

// sleeping says whether the server sleeps. It fails if the server cannot sleep:
// only development mode has the route.
func (s *server) sleeping(ctx context.Context) (bool, error) {
	var is struct {
		Sleeping bool `json:"is_sleeping"`
	}
	err := s.Call(ctx, "/is_sleeping", nil, &is)
	return is.Sleeping, err
}

// Asleep returns false if the server cannot sleep.
func (s *server) Asleep(ctx context.Context) (bool, error) {
	asleep, err := s.sleeping(ctx)
	switch {
	case jsonhttp.Status(err) != 0:
		return false, nil
	case err != nil:
		return false, notVLLM(err)
	}
	return asleep, nil
}

// Sleep moves the weights to the host's memory and drops the cache (level 1).
// Level 2 would also drop the weights.
func (s *server) Sleep(ctx context.Context) error {
	return s.Call(ctx, "/sleep?level=1", struct{}{}, nil)
}

// Wake moves the weights back and allocates the cache.
func (s *server) Wake(ctx context.Context) error {
	return s.Call(ctx, "/wake_up", struct{}{}, nil)
}

// completionRequest is the body of a completion. It sets every parameter, because
// the server's defaults may come from the model's generation_config.json.
type completionRequest struct {
	Model             string             `json:"model"`
	Prompt            []int32            `json:"prompt"`
	MaxTokens         int                `json:"max_tokens"`
	Temperature       float64            `json:"temperature"`
	TopP              float64            `json:"top_p"`
	TopK              int                `json:"top_k"`
	MinP              float64            `json:"min_p"`
	RepetitionPenalty float64            `json:"repetition_penalty"`
	PresencePenalty   float64            `json:"presence_penalty"`
	FrequencyPenalty  float64            `json:"frequency_penalty"`
	Seed              *int64             `json:"seed,omitempty"`
	N                 int                `json:"n"`
	Stream            bool               `json:"stream"`
	Logprobs          int                `json:"logprobs"`
	ReturnTokenIDs    bool               `json:"return_token_ids"`
	TokensAsIDs       bool               `json:"return_tokens_as_token_ids"`
	CacheSalt         string             `json:"cache_salt,omitempty"`
	AllowedIDs        []int32            `json:"allowed_token_ids,omitempty"`
	LogitBias         map[string]float64 `json:"logit_bias,omitempty"`
	Stop              []string           `json:"stop,omitempty"`
}

// MaxAnswer implements [jsonhttp.Bounded].
func (q completionRequest) MaxAnswer() int64 { return sampler.MaxAnswer(q.MaxTokens) }

func newRequest(model string, prompt []int32, tokens int) completionRequest {
	return completionRequest{
		Model: model, Prompt: prompt, MaxTokens: tokens, TopP: 1, RepetitionPenalty: 1, N: 1,
		ReturnTokenIDs: true, TokensAsIDs: true,
	}
}

// completion has the fields of the server's answer that are used.
type completion struct {
	Model   string `json:"model"`
	Choices []struct {
		Text      string  `json:"text"`
		Finish    string  `json:"finish_reason"`
		IDs       []int32 `json:"token_ids"`
		PromptIDs []int32 `json:"prompt_token_ids"`
		Logprobs  *struct {
			Tokens []string   `json:"tokens"` // "token_id:12"
			Values []*float32 `json:"token_logprobs"`
		} `json:"logprobs"`
	} `json:"choices"`
}

// Complete samples one completion. It sends a seed only with a temperature:
// greedy requests do not need one, and it crashes vLLM on a CPU with chunked
// prefill.
func (s *server) Complete(ctx context.Context, name string, r sampler.Request) (fleet.Answer, error) {
	q := newRequest(name, r.Prompt, r.MaxTokens)
	q.Temperature, q.TopP, q.TopK, q.Stop = r.Temperature, r.NucleusP(), r.TopK, r.Stop
	if r.Temperature > 0 {
		seed := int64(r.Seed & math.MaxInt64)
		q.Seed = &seed
	}
	if s.salt != "" {
		q.CacheSalt = name + s.salt
	}
	a, err := s.complete(ctx, q)
	if err == nil && !slices.Equal(a.prompt, r.Prompt) {
		return fleet.Answer{}, fmt.Errorf("the server read another prompt: %d ids, %d were sent",
			len(a.prompt), len(r.Prompt))
	}
	return a.Answer, err
}

// answer also has the ids of the prompt as the server read them.
type answer struct {
	fleet.Answer
	prompt []int32
}

func (s *server) complete(ctx context.Context, q completionRequest) (answer, error) {
	var c completion
	if err := s.Call(ctx, "/v1/completions", q, &c); err != nil {
		return answer{}, completionError(err)
	}
	return c.read()
}

// completionError wraps an error with its class, which says whether the request
// may be sent again.
func completionError(err error) error {
	status := jsonhttp.Status(err)
	switch {
	case errors.Is(err, fleet.ErrLost):
		return err
	case status == http.StatusNotFound:
		return fmt.Errorf("%w: %w", fleet.ErrUnknownModel, err)
	case status >= http.StatusInternalServerError: // an engine that dies gives this answer first
		return fmt.Errorf("%w: %w", fleet.ErrLost, err)
	case jsonhttp.ContextFull(err):
		return fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
	}
	return err
}

// read converts an answer. It checks that ids and log-probs belong together.
func (c *completion) read() (answer, error) {
	if len(c.Choices) != 1 {
		return answer{}, fmt.Errorf("%d choices, one was asked for", len(c.Choices))
	}
	choice := c.Choices[0]
	if choice.Finish == "abort" || choice.Finish == "error" {
		return answer{}, fmt.Errorf("%w: the server ended the request with %q", fleet.ErrLost, choice.Finish)
	}
	a := answer{fleet.Answer{Model: c.Model, Prompt: len(choice.PromptIDs), IDs: choice.IDs, Text: choice.Text,
		Finish: fleet.Finish(choice.Finish)}, choice.PromptIDs}
	l := choice.Logprobs
	if l == nil {
		return a, nil
	}
	for _, v := range l.Values {
		a.Logprobs = append(a.Logprobs, fleet.Logprob(v))
	}
	for i, token := range l.Tokens {
		id, ok := strings.CutPrefix(token, "token_id:")
		if ok && i < len(a.IDs) && id != strconv.Itoa(int(a.IDs[i])) {
			return a, fmt.Errorf("log-prob %d is of id %s, the sampled id is %d", i, id, a.IDs[i])
		}
	}
	return a, nil
}
