package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/forecast"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/sampler/llamacpp"
)

// readShape examines the model of a run, a folder or a GGUF file.
func readShape(path string) (inspect.Model, error) {
	if !isGGUF(path) {
		return inspect.Config(path)
	}
	info, err := llamacpp.Inspect(path)
	return inspect.Model{Path: path, Architecture: info.Architecture, Context: info.Context,
		Parameters: info.Parameters, Dtype: info.Quantisation}, err
}

// predictServer predicts the memory of the servers that empo2 starts.
func predictServer(c config.Config, m inspect.Model, machine inspect.Machine) forecast.Server {
	if predict := backends[c.Sampler.Backend].memory; predict != nil {
		return predict(c, m, machine)
	}
	return forecast.Server{}
}

// predictLlamaCPP predicts the memory of llama-server's processes.
func predictLlamaCPP(c config.Config, m inspect.Model, machine inspect.Machine) forecast.Server {
	s, tokens := c.Sampler.LlamaCPP, c.ContextTokens(m.Context)
	one := llamacpp.EstimateMemory(
		llamacpp.Config{Slots: c.Sampler.Concurrency, ContextPerSlot: tokens, ExactLogprobs: s.ExactLogprobs},
		llamacpp.Shape{CacheValues: m.CacheValues, Heads: m.Shape.Heads, Vocabulary: m.Shape.Vocabulary})
	out := forecast.Server{
		Name: "llama-server", Processes: s.Replicas, Shared: 4 * m.Parameters, Program: one.Program, Cache: one.Cache,
		CacheText: fmt.Sprintf("%d slots × %d tokens × %d kB", c.Sampler.Concurrency, tokens,
			one.Cache/int64(c.Sampler.Concurrency*tokens)/1000),
		Remedy: "lower rollout.concurrency, or the context: rollout.max_turns, rollout.max_tokens, sampler.max_model_len",
	}
	if trains(c) {
		out.Processes *= llamacpp.ProcessesPerSwap
	}
	for _, file := range []string{s.GGUF, m.Path} {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			out.Shared = info.Size()
			break
		}
	}
	out.OnGPU = len(machine.GPUs) > 0 && slices.ContainsFunc(s.Args, func(a string) bool {
		return strings.HasPrefix(a, "-ngl") || strings.HasPrefix(a, "--n-gpu-layers") ||
			strings.HasPrefix(a, "--gpu-layers")
	})
	return out
}

// predictVLLM predicts the memory of a vLLM server that empo2 starts: its share of
// the GPU, or without a GPU what weights and cache need.
func predictVLLM(c config.Config, m inspect.Model, machine inspect.Machine) forecast.Server {
	s, tokens := c.Sampler.VLLM, int64(c.ContextTokens(m.Context))
	if len(s.URLs) > 0 {
		return forecast.Server{}
	}
	item := int64(2)
	if s.ExactLogprobs || len(machine.GPUs) == 0 {
		item = 4
	}
	out := forecast.Server{
		Name: "vLLM", OnGPU: len(machine.GPUs) > 0, EachGPU: true, Processes: s.Replicas,
		Shared: item * m.Parameters, Sleeps: s.Sleep,
		Remedy:      "choose a smaller model, or raise sampler.vllm.gpu_memory_utilization",
		SleepRemedy: "set sampler.vllm.sleep = true",
	}
	perEpisode := tokens * item * m.CacheValues
	if !out.OnGPU || machine.GPUs[0].Memory == 0 {
		out.Cache = int64(c.Sampler.Concurrency) * perEpisode
		out.CacheText = fmt.Sprintf("%d episodes × %d tokens", c.Sampler.Concurrency, tokens)
		return out
	}
	share := s.GPUMemoryUtilization
	if share == 0 {
		share = 0.9 // vLLM's own default
	}
	out.Cache = int64(share*float64(machine.GPUs[0].Memory)) - out.Shared
	out.CacheText = fmt.Sprintf("%.0f %% of the GPU", 100*share)
	if perEpisode > 0 && out.Cache > 0 {
		out.CacheText += fmt.Sprintf(", room for %d episodes of %d tokens", out.Cache/perEpisode, tokens)
	}
	return out
}

// checkFit refuses runs that need more memory than there is, before anything is
// installed or started. runs are started at the same time. What only may be too
// much is a warning.
func checkFit(c config.Config, runs int, probe inspect.Probe, log zerolog.Logger) error {
	in, err := forecastInput(c, probe.Machine())
	if err != nil {
		return nil // what is wrong with the model is reported where it is used
	}
	if in.Model.Quantisation != "" && trains(c) {
		return nil // it is refused for that
	}
	in.Runs = runs
	return refuseProblems(forecast.Of(in), c.Run.MustFit, log)
}

// refuseProblems returns the first fatal problem of a prediction as an error. With
// mustFit = false, each problem is a warning.
func refuseProblems(f forecast.Forecast, mustFit bool, log zerolog.Logger) error {
	for _, p := range f.Problems {
		if p.Fatal && mustFit {
			return &setupError{fmt.Errorf("the model does not fit: %s\n  hint: %s; empo2 plan shows the parts, and "+
				"--set run.must_fit=false begins anyway", p.What, p.Remedy)}
		}
		log.Warn().Msgf("%s; %s (empo2 plan shows the parts)", p.What, p.Remedy)
	}
	return nil
}
