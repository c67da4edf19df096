package vllm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/fleet"
)

// Remedies for missing capabilities of a server.
const (
	adaptersHint = "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment and --enable-lora"
	rankHint     = "start it with --max-lora-rank of at least the adapter's rank (allowed: 1, 8, 16, 32, 64, 128, " +
		"256, 320, 512)"
	residentHint  = "start it with a higher --max-loras (and --max-cpu-loras)"
	contextHint   = "raise sampler.max_model_len, or start a server of your own with a higher --max-model-len"
	idsHint       = "token ids in answers need vLLM 0.10.2 or newer"
	spaceHint     = "start it with --logprobs-mode raw_logprobs, vLLM's default, or sample at temperature 1"
	cacheHint     = "set sampler.vllm.cache_salt, or start it with --no-enable-prefix-caching"
	precisionHint = "start it with --dtype float32, or compute in the trainer's dtype"
	sleepHint     = "set sampler.vllm.sleep where empo2 launches it, or start it with --enable-sleep-mode and " +
		"VLLM_SERVER_DEV_MODE=1 in its environment, on a GPU"
)

func hints() map[string]string {
	return map[string]string{
		"adapters": adaptersHint, "max_rank": rankHint, "max_resident": residentHint, "context_length": contextHint,
		"ids_out": idsHint, "logprobs": idsHint, "logprob_space": spaceHint, "sleep": sleepHint,
		sampler.HintStaleCache: cacheHint, sampler.HintLowPrecision: precisionHint,
		"adapter_format": "vLLM reads PEFT directories",
	}
}

// Probe asks for versions, models and limits and samples two given tokens. The
// first completion of a new server takes seconds.
func (s *server) Probe(ctx context.Context) (fleet.Probe, error) {
	var version struct {
		Version string `json:"version"`
	}
	if err := s.Call(ctx, "/version", nil, &version); err != nil {
		return fleet.Probe{}, notVLLM(err)
	}
	m, err := s.base(ctx)
	if err != nil {
		return fleet.Probe{}, err
	}
	p := fleet.Probe{Model: m.ID, Root: m.Root, Capabilities: sampler.Capabilities{
		Server: "vllm", Version: version.Version, IDsIn: true, StopStrings: true, Adapters: "none", AdapterFormat: "peft",
		ContextLength: m.Context, Replicas: 1, Hints: hints(),
	}}
	c := &p.Capabilities
	_, err = s.sleeping(ctx)
	if p.Sleeps = err == nil; err != nil && jsonhttp.Status(err) == 0 {
		return p, err
	}
	if c.VocabSize, err = s.vocabulary(ctx, m.ID); err != nil {
		return p, err
	}
	if err := s.probeSampling(ctx, m.ID, c); err != nil {
		return p, err
	}
	if err := s.probeAdapters(ctx, c); err != nil {
		return p, err
	}
	return p, nil
}

func notVLLM(err error) error {
	switch jsonhttp.Status(err) {
	case http.StatusNotFound:
		return fmt.Errorf("%w\n"+
			"  hint: check that this is a vLLM server; sampler.vllm.urls must have no path such as /v1", err)
	case http.StatusUnauthorized:
		return fmt.Errorf("%w\n  hint: put the server's --api-key into EMPO2_SERVER_KEY", err)
	}
	return fmt.Errorf("%w\n"+
		"  hint: check that the server is running and that sampler.vllm.urls has its address", err)
}

// base returns the base model.
func (s *server) base(ctx context.Context) (fleet.Model, error) {
	list, err := s.Models(ctx)
	if err != nil {
		return fleet.Model{}, notVLLM(err)
	}
	var names []string
	var found []fleet.Model
	for _, m := range list {
		if m.Parent != nil {
			continue
		}
		names = append(names, m.ID)
		if s.model == "" || m.ID == s.model {
			found = append(found, m)
		}
	}
	switch {
	case len(found) == 0 || s.model == "" && len(names) > 1:
		return fleet.Model{}, fmt.Errorf("it serves %s, not %q\n"+
			"  hint: set sampler.served_model_name to the server's --served-model-name", strings.Join(names, ", "), s.model)
	case found[0].Context < 1:
		return fleet.Model{}, fmt.Errorf("it serves %s with a context of %d tokens", found[0].ID, found[0].Context)
	}
	return found[0], nil
}

var vocabularySize = regexp.MustCompile(`Vocabulary size: (\d+)`)

// vocabulary requests a token outside the vocabulary. The error message contains
// the size; 0: unknown.
func (s *server) vocabulary(ctx context.Context, name string) (int, error) {
	q := newRequest(name, []int32{0}, 1)
	q.LogitBias = map[string]float64{strconv.Itoa(math.MaxInt32): 1}
	_, err := s.complete(ctx, q)
	if errors.Is(err, fleet.ErrLost) || ctx.Err() != nil {
		return 0, err
	}
	if err == nil {
		return 0, nil
	}
	m := vocabularySize.FindStringSubmatch(jsonhttp.ServerText(err))
	if m == nil {
		return 0, nil
	}
	return strconv.Atoi(m[1])
}

// probeSampling samples at temperature 0.5 with only one allowed id. Processed
// log-probs of this id are 0. Raw log-probs of two ids cannot both be 0.
func (s *server) probeSampling(ctx context.Context, name string, c *sampler.Capabilities) error {
	processed := true
	for _, id := range []int32{0, int32(max(c.VocabSize, 4) / 2)} {
		q := newRequest(name, []int32{id}, 1)
		q.Temperature, q.AllowedIDs = 0.5, []int32{id}
		a, err := s.complete(ctx, q)
		if err != nil {
			return fmt.Errorf("sample a token: %w", err)
		}
		c.IDsOut = len(a.IDs) == 1 && a.IDs[0] == id
		c.Logprobs = c.IDsOut && len(a.Logprobs) == 1
		if !c.Logprobs {
			return nil
		}
		processed = processed && a.Logprobs[0] > -1e-6
	}
	if c.LogprobSpace = "raw"; processed {
		c.LogprobSpace = "processed"
	}
	return nil
}

var maxLoras = regexp.MustCompile(`vllm:lora_requests_info\{[^}]*max_lora="(\d+)"`)

// probeAdapters calls the route that loads adapters, without a name. Without
// permission to load adapters, the server does not have this route.
func (s *server) probeAdapters(ctx context.Context, c *sampler.Capabilities) error {
	err := s.Call(ctx, "/v1/load_lora_adapter", struct{}{}, nil)
	switch status := jsonhttp.Status(err); {
	case err != nil && status == 0, errors.Is(err, fleet.ErrLost):
		return err
	case status == http.StatusBadRequest || status == http.StatusUnprocessableEntity:
		if c.Adapters, c.MaxRank, err = s.probeRank(ctx); err != nil {
			return err
		}
	}
	text, err := s.metrics(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if m := maxLoras.FindStringSubmatch(text); m != nil {
		c.MaxResident, _ = strconv.Atoi(m[1]) // matched digits
	}
	return err
}

// tooHighRank is the configuration of an adapter that every server refuses.
const tooHighRank = `{"peft_type": "LORA", "r": 100000, "lora_alpha": 1, "target_modules": ["q_proj"], ` +
	`"bias": "none", "task_type": "CAUSAL_LM"}`

const notEnabled = "LoRA is not enabled"

var largestRank = regexp.MustCompile(`greater than max_lora_rank (\d+)`)

// probeRank loads an adapter of a rank that is too high. The error message says
// that adapters are not enabled, or has the largest rank. The rank is 0, for
// unknown, if the server cannot read files of this machine.
func (s *server) probeRank(ctx context.Context) (adapters string, rank int, err error) {
	dir, err := os.MkdirTemp("", "empo2-rank-")
	if err != nil {
		return "", 0, err
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.Chmod(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(tooHighRank), 0o644)); err != nil {
		return "", 0, err
	}
	err = s.LoadAdapter(ctx, filepath.Base(dir), dir)
	switch {
	case err != nil && jsonhttp.Status(err) == 0:
		return "", 0, err
	case err == nil:
		return "runtime", 0, s.UnloadAdapter(ctx, filepath.Base(dir))
	case strings.Contains(jsonhttp.ServerText(err), notEnabled):
		return "none", 0, nil
	}
	if m := largestRank.FindStringSubmatch(jsonhttp.ServerText(err)); m != nil {
		rank, err = strconv.Atoi(m[1])
		return "runtime", rank, err
	}
	return "runtime", 0, nil
}
