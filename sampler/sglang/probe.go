package sglang

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/fleet"
)

// Remedies for missing capabilities of a server.
const (
	adaptersHint  = "start it with --enable-lora --lora-target-modules all --max-lora-rank of at least the adapter's rank"
	rankHint      = "start it with a higher --max-lora-rank"
	residentHint  = "start it with a higher --max-loras-per-batch (and --max-loaded-loras)"
	contextHint   = "start it with a higher --context-length"
	spaceHint     = "start it with SGLANG_RETURN_ORIGINAL_LOGPROB=1 in its environment, or sample at temperature 1"
	cacheHint     = "start it with --disable-radix-cache"
	precisionHint = "start it with --dtype float32, or compute in the trainer's dtype"
	sleepHint     = "start it with --enable-memory-saver"
)

func hints() map[string]string {
	return map[string]string{
		"adapters": adaptersHint, "max_rank": rankHint, "max_resident": residentHint, "context_length": contextHint,
		"logprob_space": spaceHint, "sleep": sleepHint,
		sampler.HintStaleCache: cacheHint, sampler.HintLowPrecision: precisionHint,
		"ids_out":        "output_ids of /generate need SGLang 0.4.7 or newer",
		"logprobs":       "log-probs of /generate need SGLang 0.4.7 or newer",
		"adapter_format": "SGLang reads PEFT directories",
	}
}

// info has the server's arguments that are used.
type info struct {
	Version     string `json:"version"`
	EnableLora  bool   `json:"enable_lora"`
	MaxRank     int    `json:"max_lora_rank"`
	PerBatch    int    `json:"max_loras_per_batch"`
	MaxRunning  int    `json:"max_running_requests"`
	MemorySaver bool   `json:"enable_memory_saver"`
}

// Probe reads the server's arguments and samples tokens.
func (s *server) Probe(ctx context.Context) (fleet.Probe, error) {
	var i info
	if err := s.Call(ctx, "/get_server_info", nil, &i); err != nil {
		return fleet.Probe{}, unreachable(err)
	}
	var about struct {
		Path string `json:"model_path"`
	}
	if err := s.Call(ctx, "/get_model_info", nil, &about); err != nil {
		return fleet.Probe{}, err
	}
	list, err := s.Models(ctx)
	if err != nil {
		return fleet.Probe{}, err
	}
	if len(list) == 0 || s.model != "" && list[0].ID != s.model || list[0].Context < 1 {
		return fleet.Probe{}, fmt.Errorf("it serves %s, not %q\n"+
			"  hint: set sampler.served_model_name to the server's --served-model-name", names(list), s.model)
	}
	p := fleet.Probe{Model: list[0].ID, Root: about.Path, Sleeps: i.MemorySaver, Capabilities: sampler.Capabilities{
		Server: "sglang", Version: i.Version, IDsIn: true, StopStrings: true, Adapters: "none", AdapterFormat: "peft",
		MaxRank: i.MaxRank, MaxResident: i.PerBatch,
		ContextLength: list[0].Context, Replicas: 1, Hints: hints(),
	}}
	if i.EnableLora {
		p.Capabilities.Adapters = "runtime"
	}
	if p.Capabilities.VocabSize, err = s.vocabulary(ctx); err != nil {
		return p, err
	}
	if err := s.probeSampling(ctx, &p.Capabilities); err != nil {
		return p, err
	}
	traits := &serverTraits{base: p.Model}
	if traits.seeds, err = s.acceptsSeeds(ctx); err != nil {
		return p, err
	}
	s.probed.Store(traits)
	return p, nil
}

func unreachable(err error) error {
	return fmt.Errorf("%w\n"+
		"  hint: check that an SGLang server is running at sampler.sglang.urls and that EMPO2_SERVER_KEY has its key",
		err)
}

// acceptsSeeds says whether the server accepts a seed. Servers before about 0.5.4
// do not.
func (s *server) acceptsSeeds(ctx context.Context) (bool, error) {
	q := newRequest([]int32{0}, 1)
	q.Params.Seed = new(int64)
	_, err := s.generate(ctx, q)
	if err != nil && jsonhttp.Status(err) != 0 && strings.Contains(jsonhttp.ServerText(err), "sampling_seed") {
		return false, nil
	}
	return err == nil, err
}

var vocabularySize = regexp.MustCompile(`vocab size \((\d+)\)`)

// vocabulary sends an id outside the vocabulary. The error message contains the
// size; 0: unknown.
func (s *server) vocabulary(ctx context.Context) (int, error) {
	_, err := s.generate(ctx, newRequest([]int32{math.MaxInt32}, 1))
	if errors.Is(err, fleet.ErrLost) || ctx.Err() != nil || err == nil {
		return 0, err
	}
	m := vocabularySize.FindStringSubmatch(jsonhttp.ServerText(err))
	if m == nil {
		return 0, nil
	}
	return strconv.Atoi(m[1])
}

// probeSampling samples a greedy token at two temperatures. If both log-probs are
// equal, the server gives them before the temperature.
func (s *server) probeSampling(ctx context.Context, c *sampler.Capabilities) error {
	var logprobs []float32
	for _, temperature := range []float64{1, 4} {
		q := newRequest([]int32{int32(max(c.VocabSize, 4) / 2)}, 1)
		q.Params.Temperature, q.Params.TopK = temperature, 1
		a, err := s.generate(ctx, q)
		if err != nil {
			return fmt.Errorf("sample a token: %w", err)
		}
		c.IDsOut = len(a.IDs) == 1
		c.Logprobs = c.IDsOut && len(a.Logprobs) == 1
		if !c.Logprobs {
			return nil
		}
		logprobs = append(logprobs, a.Logprobs[0])
	}
	if c.LogprobSpace = "processed"; math.Abs(float64(logprobs[0]-logprobs[1])) < 1e-3 {
		c.LogprobSpace = "raw"
	}
	return nil
}

// names lists the models of a server with their contexts.
func names(list []fleet.Model) string {
	var all []string
	for _, m := range list {
		all = append(all, fmt.Sprintf("%s (context %d)", m.ID, m.Context))
	}
	if all == nil {
		return "no model"
	}
	return strings.Join(all, ", ")
}
