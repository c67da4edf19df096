package llamacpp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// A replica is a checked process and the queue of its slots.
type replica struct {
	server
	client *client
	// slots are the places of the server, each of which keeps the keys and
	// values of the last conversation that it served.
	slots    *admission.Queue
	answered atomic.Int64 // completions
}

// newSlots makes a queue for n slots. Every request names its slot, so that
// the server never chooses one.
func newSlots(n int) *admission.Queue {
	return admission.New(admission.Config{Limits: slices.Repeat([]int{1}, n)})
}

func (r *replica) stop() {
	r.server.stop()
	r.client.close()
}

func (r *replica) runs() bool {
	select {
	case <-r.exited():
		return false
	default:
		return true
	}
}

// replica starts a process for the version and checks it.
func (v *version) replica(ctx context.Context) (*replica, error) {
	cfg := v.b.cfg
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.StartTimeout,
		fmt.Errorf("llama-server is not ready within %v", cfg.StartTimeout))
	defer cancel()
	l := launch{
		Model: cfg.BaseGGUF, Alias: v.policy.Name, Adapters: []string{},
		Slots: cfg.Slots, Context: cfg.Slots * cfg.ContextPerSlot, Threads: cfg.Threads, BatchThreads: cfg.BatchThreads,
		// An idle connection holds a thread of the server.
		HTTPThreads: 2*cfg.Slots + 8, Exact: cfg.ExactLogprobs,
		python: cfg.Python, binary: cfg.Binary, args: cfg.Args, grace: cfg.Grace, timeout: cfg.StartTimeout, log: v.log,
	}
	if v.adapter != "" {
		l.Adapters = append(l.Adapters, v.adapter)
	}
	s, err := v.b.start(ctx, l)
	if err != nil {
		return nil, err
	}
	r := &replica{server: s, client: newClient(s.endpoint(), cfg.Slots+4), slots: newSlots(cfg.Slots)}
	if err := v.check(ctx, r); err != nil {
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

// check compares what the process says of itself with what was asked for.
func (v *version) check(ctx context.Context, r *replica) error {
	caps, alias, err := probeCapabilities(ctx, r)
	if err != nil {
		return err
	}
	if alias != v.policy.Name {
		return fmt.Errorf("it serves %s", alias)
	}
	if err := v.checkAdapters(ctx, r); err != nil {
		return err
	}
	switch {
	case v.b.caps.Server == "":
		v.b.caps = caps // the first process; Open has not returned
	case !reflect.DeepEqual(v.b.caps, caps):
		return fmt.Errorf("it differs from the first one: %+v, was %+v", caps, v.b.caps)
	}
	p, err := v.probe(ctx, r)
	if err != nil {
		return err
	}
	if v.first == nil {
		v.first = p
		return nil
	}
	return p.like(v.first, v.b.cfg.ExactLogprobs)
}

// checkAdapters returns an error unless the base has no adapter and every other
// version has one at scale 1.
func (v *version) checkAdapters(ctx context.Context, r *replica) error {
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

func probeCapabilities(ctx context.Context, r *replica) (c sampler.Capabilities, alias string, err error) {
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
			"adapter_format":         "llama-server loads GGUF adapters: the trainer must write them as GGUF",
			"context_length":         "raise sampler.max_model_len",
			sampler.HintStaleCache:   "empo2 starts it with --cache-ram 0: remove flags of the cache from sampler.llamacpp.args",
			sampler.HintLowPrecision: "set sampler.llamacpp.exact_logprobs, or compute in the trainer's dtype",
		},
	}, props.Alias, nil
}

// A probe is a greedy completion by which two processes of a version are
// compared.
type probe struct {
	ids      []int32
	logprobs []float32
}

const (
	probeText   = "The quick brown fox opens a door."
	probeTokens = 4
)

func (v *version) probe(ctx context.Context, r *replica) (*probe, error) {
	ids, err := r.client.tokenize(ctx, probeText, false)
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 || len(ids)+probeTokens > v.b.caps.ContextLength {
		return nil, fmt.Errorf("%d tokens of context are too few\n"+
			"  hint: raise sampler.max_model_len", v.b.caps.ContextLength)
	}
	c, err := v.complete(ctx, r, sampler.Request{Prompt: ids, MaxTokens: probeTokens})
	if err != nil {
		return nil, err
	}
	return &probe{c.IDs, c.Logprobs}, nil
}

// like returns an error unless both processes computed the same.
func (p *probe) like(q *probe, exact bool) error {
	tolerance := 0.05
	if exact {
		tolerance = 1e-3
	}
	for i := range min(len(p.ids), len(q.ids)) {
		d := math.Abs(float64(p.logprobs[i]) - float64(q.logprobs[i]))
		switch {
		case d > tolerance:
			return fmt.Errorf("log-probs differ from the first process's by %.3g: a file was changed\n"+
				"  hint: files of a published adapter must stay as they are", d)
		case p.ids[i] != q.ids[i]: // a near tie: the ids after it answer different prompts
			return nil
		}
	}
	return nil
}
