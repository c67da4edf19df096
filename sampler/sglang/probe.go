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

// Remedies for what a server, as launched, cannot do.
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

// info is what is read of the server's arguments.
type info struct {
	Version     string `json:"version"`
	EnableLora  bool   `json:"enable_lora"`
	MaxRank     int    `json:"max_lora_rank"`
	PerBatch    int    `json:"max_loras_per_batch"`
	MaxRunning  int    `json:"max_running_requests"`
	MemorySaver bool   `json:"enable_memory_saver"`
}

// Probe reads the server's arguments and samples two tokens.
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
	if len(list) == 0 || s.want != "" && list[0].ID != s.want || list[0].Context < 1 {
		return fleet.Probe{}, fmt.Errorf("it serves %+v, not %q\n"+
			"  hint: set sampler.served_model_name to the name that the server gives it (--served-model-name)", list, s.want)
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
	if err := s.writes(ctx, &p.Capabilities); err != nil {
		return p, err
	}
	is := &traits{base: p.Model}
	if is.seeds, err = s.seeds(ctx); err != nil {
		return p, err
	}
	s.probed.Store(is)
	return p, nil
}

func unreachable(err error) error {
	return fmt.Errorf("%w\n"+
		"  hint: is this an SGLang server, running, reachable from here at sampler.sglang.urls and with the key in "+
		"EMPO2_SERVER_KEY?", err)
}

// seeds: servers before 0.5.4 or so refuse a seed.
func (s *server) seeds(ctx context.Context) (bool, error) {
	q := ask([]int32{0}, 1)
	q.Params.Seed = new(int64)
	_, err := s.generate(ctx, q)
	if err != nil && jsonhttp.Status(err) != 0 && strings.Contains(jsonhttp.ServerText(err), "sampling_seed") {
		return false, nil
	}
	return err == nil, err
}

var vocabularySize = regexp.MustCompile(`vocab size \((\d+)\)`)

// vocabulary asks with an id outside of it; the refusal says how large it is.
func (s *server) vocabulary(ctx context.Context) (int, error) {
	_, err := s.generate(ctx, ask([]int32{math.MaxInt32}, 1))
	if errors.Is(err, fleet.ErrLost) || ctx.Err() != nil || err == nil {
		return 0, err
	}
	m := vocabularySize.FindStringSubmatch(jsonhttp.ServerText(err))
	if m == nil {
		return 0, nil
	}
	return strconv.Atoi(m[1])
}

// writes samples one token greedily at two temperatures. SGLang's log-probs
// are those after the temperature unless it was told otherwise; then the same
// token has the same one.
func (s *server) writes(ctx context.Context, c *sampler.Capabilities) error {
	var seen []float32
	for _, temperature := range []float64{1, 4} {
		q := ask([]int32{int32(max(c.VocabSize, 4) / 2)}, 1)
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
		seen = append(seen, a.Logprobs[0])
	}
	if c.LogprobSpace = "processed"; math.Abs(float64(seen[0]-seen[1])) < 1e-3 {
		c.LogprobSpace = "raw"
	}
	return nil
}
