package llamacpp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// An engine is a process that was checked and serves its version, and the queue of its slots.
type engine struct {
	server
	client *client
	// slots are the places of the server. Each has the keys and values of its last
	// conversation in its cache.
	slots    *admission.Queue
	cache    slotCache
	answered atomic.Int64 // completions
}

// newSlots returns a queue for n slots. Every request names its slot, so the server
// does not choose one.
func newSlots(n int) *admission.Queue {
	return admission.New(admission.Config{Limits: slices.Repeat([]int{1}, n)})
}

func (r *engine) stop() {
	r.server.stop()
	r.client.close()
}

func (r *engine) runs() bool {
	select {
	case <-r.exited():
		return false
	default:
		return true
	}
}

// start starts a process for the version on the replica's device and checks it.
func (rep *replica) start(ctx context.Context) (*engine, error) {
	v, cfg := rep.v, rep.v.b.cfg
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.StartTimeout,
		fmt.Errorf("llama-server is not ready within %v\n"+
			"  hint: its log (-v) may say why; it also renders the chat template of %s, whose loops may not end",
			cfg.StartTimeout, cfg.BaseGGUF))
	defer cancel()
	l := launch{
		Model: cfg.BaseGGUF, Alias: v.policy.Name, Adapters: []string{},
		Slots: cfg.Slots, Context: cfg.Slots * cfg.ContextPerSlot, Threads: cfg.Threads, BatchThreads: cfg.BatchThreads,
		// Each connection needs a thread of the server, also while it is idle.
		HTTPThreads: 2*cfg.Slots + 8, Exact: cfg.ExactLogprobs,
		python: cfg.Python, binary: cfg.Binary, args: cfg.Args, inherit: cfg.Inherit, grace: cfg.Grace,
		timeout: cfg.StartTimeout, log: rep.log,
	}
	if rep.device != "" {
		l.inherit = append(slices.Clone(l.inherit), "CUDA_VISIBLE_DEVICES="+rep.device)
	}
	if v.adapter != "" {
		l.Adapters = append(l.Adapters, v.adapter)
		if err := v.verify(); err != nil {
			return nil, fmt.Errorf("%w\n  hint: %s", err, adapterHint)
		}
	}
	s, err := v.b.start(ctx, l)
	if err != nil {
		return nil, err
	}
	r := &engine{server: s, client: newClient(s.endpoint(), cfg.Slots+4), slots: newSlots(cfg.Slots),
		cache: make(slotCache, cfg.Slots)}
	end := watchdog.Begin(ctx, "server", "check llama-server", cfg.StartTimeout)
	err = v.check(ctx, r)
	end()
	if err != nil {
		select {
		case <-s.exited():
			err = errors.Join(err, s.err())
		default:
		}
		r.stop()
		return nil, fmt.Errorf("check llama-server: %w", err)
	}
	return r, nil
}

// check compares the settings, adapters and answers of the process with the
// version's.
func (v *version) check(ctx context.Context, r *engine) error {
	caps, alias, err := probeCapabilities(ctx, r)
	if err != nil {
		return err
	}
	caps.Rounding, caps.Hints["tokenizer"] = v.b.info.rounding(), v.b.model.tokenizerHint()
	if alias != v.policy.Name {
		return fmt.Errorf("it serves %s", alias)
	}
	if err := v.checkAdapters(ctx, r); err != nil {
		return err
	}
	switch {
	case v.b.caps.Server == "":
		v.b.caps = caps // the first process, during Open
	case !reflect.DeepEqual(v.b.caps, caps):
		return fmt.Errorf("it differs from the first one: %+v, was %+v", caps, v.b.caps)
	}
	p, err := v.probe(ctx, r)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.first == nil {
		v.first = p
		return nil
	}
	return p.compare(v.first, v.b.cfg.ExactLogprobs)
}

// checkAdapters checks that the process has no adapter for the base model, and one
// at scale 1 for every other version.
func (v *version) checkAdapters(ctx context.Context, r *engine) error {
	var adapters []struct {
		ID    int     `json:"id"`
		Scale float64 `json:"scale"`
	}
	if err := r.client.call(ctx, "/lora-adapters", nil, &adapters); err != nil {
		return err
	}
	want := 0
	if v.adapter != "" {
		want = 1
	}
	if len(adapters) != want || want == 1 && (adapters[0].ID != 0 || adapters[0].Scale != 1) {
		return fmt.Errorf("it has adapters %+v, want %d at scale 1", adapters, want)
	}
	return nil
}

func probeCapabilities(ctx context.Context, r *engine) (c sampler.Capabilities, alias string, err error) {
	var props struct {
		Alias    string `json:"model_alias"`
		Slots    int    `json:"total_slots"`
		Settings struct {
			Context int `json:"n_ctx"`
		} `json:"default_generation_settings"`
	}
	var models struct {
		Data []struct {
			Meta struct {
				Vocab int `json:"n_vocab"`
			} `json:"meta"`
		} `json:"data"`
	}
	if err := r.client.call(ctx, "/props", nil, &props); err != nil {
		return c, "", err
	}
	if err := r.client.call(ctx, "/v1/models", nil, &models); err != nil {
		return c, "", err
	}
	if len(models.Data) != 1 || models.Data[0].Meta.Vocab < 1 || props.Slots < 1 || props.Settings.Context < 1 {
		return c, "", fmt.Errorf("it serves %d models with %d slots of %d tokens", len(models.Data), props.Slots,
			props.Settings.Context)
	}
	return sampler.Capabilities{
		Server: "llama-server", Version: r.endpoint().Version,
		IDsIn: true, IDsOut: true, StopStrings: true, Logprobs: true, LogprobSpace: "raw", Adapters: "process",
		AdapterFormat: "gguf", Replicas: 1,
		ContextLength: props.Settings.Context, Parallel: props.Slots, VocabSize: models.Data[0].Meta.Vocab,
		Hints: map[string]string{
			"adapter_format": "llama-server loads GGUF adapters: the trainer must write them as GGUF",
			"context_length": "raise sampler.max_model_len",
			sampler.HintStaleCache: "empo2 starts it with --cache-ram 0: " +
				"remove flags about the cache from sampler.llamacpp.args",
			sampler.HintLowPrecision: "set sampler.llamacpp.exact_logprobs, or compute in the trainer's dtype",
		},
	}, props.Alias, nil
}

// A probe is a greedy completion. It shows whether two processes of a version
// compute the same.
type probe struct {
	ids      []int32
	logprobs []float32
}

const (
	probeText   = "The quick brown fox opens a door."
	probeTokens = 4
)

func (v *version) probe(ctx context.Context, r *engine) (*probe, error) {
	ids, err := r.client.tokenize(ctx, probeText, false)
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 || len(ids)+probeTokens > v.b.caps.ContextLength {
		return nil, fmt.Errorf("a context of %d tokens is too small\n"+
			"  hint: raise sampler.max_model_len", v.b.caps.ContextLength)
	}
	c, err := v.complete(ctx, r, sampler.Request{Prompt: ids, MaxTokens: probeTokens})
	if err != nil {
		return nil, err
	}
	return &probe{c.IDs, c.Logprobs}, nil
}

// compare returns an error if the processes computed different log-probs.
func (p *probe) compare(q *probe, exact bool) error {
	tolerance := 0.05
	if exact {
		tolerance = 1e-3
	}
	for i := range min(len(p.ids), len(q.ids)) {
		d := math.Abs(float64(p.logprobs[i]) - float64(q.logprobs[i]))
		switch {
		case d > tolerance:
			return fmt.Errorf("log-probs differ from the first process's by %.3g: a file was changed\n"+
				"  hint: do not change the files of a published adapter", d)
		case p.ids[i] != q.ids[i]: // a near tie: the ids after it have different prompts
			return nil
		}
	}
	return nil
}
