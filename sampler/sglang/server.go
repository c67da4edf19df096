package sglang

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/fleet"
)

var (
	_ fleet.Server  = (*server)(nil)
	_ fleet.Sleeper = (*server)(nil)
)

// server is the client of one SGLang server. Requests follow the sources of
// version 0.5, entrypoints/http_server.py and managers/io_struct.py.
type server struct {
	*fleet.Client
	model string // the base model's name; empty: any name

	probed atomic.Pointer[serverTraits] // set by Probe
}

// serverTraits are the properties of a server that requests depend on.
type serverTraits struct {
	base  string // the base model's name
	seeds bool   // the server accepts sampling_seed
}

// TokenizeMessages implements [fleet.Server]. SGLang's /tokenize takes text only.
func (s *server) TokenizeMessages(context.Context, []chat.Message, bool, map[string]any) ([]int32, error) {
	return nil, fmt.Errorf("%w: SGLang does not return its rendering of a conversation", errors.ErrUnsupported)
}

// update is the answer to a load or an unload.
type update struct {
	Success bool   `json:"success"`
	Message string `json:"error_message"`
}

// LoadAdapter loads a folder. Each load has a new id, which is part of the key of
// the server's prefix cache.
func (s *server) LoadAdapter(ctx context.Context, name, dir string) error {
	return s.update(ctx, "/load_lora_adapter", map[string]any{"lora_name": name, "lora_path": dir, "pinned": false})
}

// UnloadAdapter waits for the adapter's requests in flight.
func (s *server) UnloadAdapter(ctx context.Context, name string) error {
	return s.update(ctx, "/unload_lora_adapter", map[string]any{"lora_name": name})
}

func (s *server) update(ctx context.Context, path string, body map[string]any) error {
	var u update
	err := s.Call(ctx, path, body, &u)
	if err == nil && !u.Success {
		err = errors.New(s.Clean(u.Message))
	}
	switch {
	case err == nil:
		return nil
	case strings.Contains(jsonhttp.ServerText(err), "already loaded"):
		return fmt.Errorf("%w: %w", fleet.ErrLoaded, err)
	}
	return fleet.WithHint(err, loadHints)
}

const pathHint = "the server reads the directory itself: the same path must exist on its machine"

// loadHints are remedies for the server's answers to a load.
var loadHints = []process.Hint{
	{Contains: "rank", Remedy: rankHint},
	{Contains: "not enabled", Remedy: adaptersHint},
	{Contains: "max_loaded_loras", Remedy: residentHint},
	{Contains: "No such file", Remedy: pathHint},
	{Contains: "No adapter found", Remedy: pathHint},
	{Contains: "incompatible", Remedy: rankHint + ", and with --lora-target-modules all"},
}

// Load returns the sum of the schedulers' counts.
func (s *server) Load(ctx context.Context) (fleet.Load, error) {
	var ranks []struct {
		All     int `json:"num_reqs"`
		Waiting int `json:"num_waiting_reqs"`
	}
	err := s.Call(ctx, "/get_load", nil, &ranks)
	if jsonhttp.Status(err) != 0 {
		return fleet.Load{}, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	var l fleet.Load
	for _, r := range ranks {
		l.Running += r.All - r.Waiting
		l.Waiting += r.Waiting
	}
	return l, err
}

// generateRequest is the body of /generate.
type generateRequest struct {
	InputIDs       []int32  `json:"input_ids"`
	Params         sampling `json:"sampling_params"`
	ReturnLogprob  bool     `json:"return_logprob"`
	LogprobStart   int      `json:"logprob_start_len"`
	TextInLogprobs bool     `json:"return_text_in_logprobs"`
	Stream         bool     `json:"stream"`
	Adapter        string   `json:"lora_path,omitempty"` // the adapter's name
}

// sampling sets every parameter, so that the server's defaults are not used.
type sampling struct {
	MaxNewTokens      int      `json:"max_new_tokens"`
	Temperature       float64  `json:"temperature"`
	TopP              float64  `json:"top_p"`
	TopK              int      `json:"top_k"` // −1: all
	MinP              float64  `json:"min_p"`
	RepetitionPenalty float64  `json:"repetition_penalty"`
	FrequencyPenalty  float64  `json:"frequency_penalty"`
	PresencePenalty   float64  `json:"presence_penalty"`
	IgnoreEOS         bool     `json:"ignore_eos"`
	Seed              *int64   `json:"sampling_seed,omitempty"`
	Stop              []string `json:"stop,omitempty"`
}

// MaxAnswer implements [jsonhttp.Bounded].
func (q generateRequest) MaxAnswer() int64 { return sampler.MaxAnswer(q.Params.MaxNewTokens) }

func newRequest(prompt []int32, tokens int) generateRequest {
	return generateRequest{
		InputIDs: prompt, ReturnLogprob: true, LogprobStart: -1,
		Params: sampling{MaxNewTokens: tokens, TopP: 1, TopK: -1, RepetitionPenalty: 1},
	}
}

// generated has the fields of the server's answer that are used.
type generated struct {
	Text string  `json:"text"`
	IDs  []int32 `json:"output_ids"`
	Meta struct {
		Prompt   int          `json:"prompt_tokens"`
		Finish   finish       `json:"finish_reason"`
		Logprobs []logprobRow `json:"output_token_logprobs"`
	} `json:"meta_info"`
}

type finish struct {
	Type    string `json:"type"`
	Message string `json:"message"`     // of an abort
	Status  *int   `json:"status_code"` // the HTTP status that an abort stands for; nil: none
}

// aborted returns the error of a request that the server has aborted; nil: it has not. Some versions answer so with
// status 200 if the prompt is too long.
func (f finish) aborted() error {
	if f.Type != "abort" {
		return nil
	}
	e := &jsonhttp.Error{Op: "POST /generate", Message: "the server aborted the request: " + safetext.Escape(f.Message),
		Status: http.StatusOK}
	if f.Status != nil && *f.Status >= http.StatusBadRequest {
		e.Status = *f.Status
	} else if f.Message == "" {
		return fmt.Errorf("%w: %w", fleet.ErrLost, e)
	}
	return completionError(e)
}

// A logprobRow is [log-prob, id, text or null].
type logprobRow struct {
	value *float32
	id    int32
}

// UnmarshalJSON reads a row of two or three elements.
func (r *logprobRow) UnmarshalJSON(text []byte) error {
	var row []json.RawMessage
	if err := json.Unmarshal(text, &row); err != nil {
		return err
	}
	if len(row) < 2 {
		return fmt.Errorf("a log-prob with %d elements, want 2 or 3", len(row))
	}
	return errors.Join(json.Unmarshal(row[0], &r.value), json.Unmarshal(row[1], &r.id))
}

// Complete samples one completion. The answer does not name the adapter, so only
// the canary verifies it.
func (s *server) Complete(ctx context.Context, name string, r sampler.Request) (fleet.Answer, error) {
	q := newRequest(r.Prompt, r.MaxTokens)
	q.Params.Temperature, q.Params.TopP, q.Params.Stop = r.Temperature, r.NucleusP(), r.Stop
	if r.TopK > 0 {
		q.Params.TopK = r.TopK
	}
	traits := s.probed.Load()
	if traits == nil {
		return fleet.Answer{}, errors.New("the server was not probed")
	}
	if r.Temperature > 0 && traits.seeds {
		seed := sampler.ShortSeed(r.Seed)
		q.Params.Seed = &seed
	}
	if name != traits.base {
		q.Adapter = name
	}
	a, err := s.generate(ctx, q)
	a.Model = name
	return a, err
}

func (s *server) generate(ctx context.Context, q generateRequest) (fleet.Answer, error) {
	var g generated
	if err := s.Call(ctx, "/generate", q, &g); err != nil {
		return fleet.Answer{}, completionError(err)
	}
	if err := g.Meta.Finish.aborted(); err != nil {
		return fleet.Answer{}, err
	}
	return g.read()
}

var unknownAdapter = regexp.MustCompile(`(?i)lora.*not (been )?loaded|not loaded.*lora`)

// completionError wraps an error with its class, which says whether the request
// may be sent again.
func completionError(err error) error {
	status := jsonhttp.Status(err)
	switch {
	case errors.Is(err, fleet.ErrLost):
		return err
	case status == http.StatusBadRequest && unknownAdapter.MatchString(jsonhttp.ServerText(err)):
		return fmt.Errorf("%w: %w", fleet.ErrUnknownModel, err)
	case status >= http.StatusInternalServerError:
		return fmt.Errorf("%w: %w", fleet.ErrLost, err)
	case jsonhttp.ContextFull(err):
		return fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
	}
	return err
}

// read converts an answer. It checks that ids and log-probs belong together. An end
// token that was sampled is the last id.
func (g *generated) read() (fleet.Answer, error) {
	a := fleet.Answer{Prompt: g.Meta.Prompt, IDs: g.IDs, Text: g.Text, Finish: fleet.Finish(g.Meta.Finish.Type)}
	for i, row := range g.Meta.Logprobs {
		if i < len(a.IDs) && row.id != a.IDs[i] {
			return a, fmt.Errorf("log-prob %d is of id %d, the sampled id is %d", i, row.id, a.IDs[i])
		}
		a.Logprobs = append(a.Logprobs, fleet.Logprob(row.value))
	}
	return a, nil
}
