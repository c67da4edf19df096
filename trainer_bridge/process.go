package trainerbridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
)

// ProcessConfig says how to start the Python trainer.
type ProcessConfig struct {
	Python    string // interpreter that has the trainer's requirements
	SourceDir string // holds the package empo2_trainer, see [ExtractSources]
	Model     string // base model: folder in Hugging Face format
	Root      string // run directory that adapters/ and checkpoints/ are written to
	Threads   int    // of torch; 0 is torch's own choice
	// Deterministic makes torch use only algorithms whose results are equal in every
	// run.
	Deterministic bool
	Seed          int64  // of torch
	Dtype         string // of the base model: float32, bfloat16 or float16; empty: the trainer's default
	Quantize      string // none or nf4 (4-bit base model, needs a CUDA GPU); empty: the trainer's default
	Device        string // auto, cpu, cuda or cuda:N; empty: the trainer's default
	// GPUs that train together, each with a process (rank) of its own; 0 is 1. With
	// Device cpu they are processes on the CPU.
	GPUs int
	// Parallel is how several GPUs share the base model: auto, data or fsdp2; empty:
	// the trainer's default.
	Parallel string
	// RankTimeout is how long a rank waits for the others, within a pass too; 0: the
	// trainer's default.
	RankTimeout time.Duration
	// Formats are what adapters are exported as: peft, gguf; none: the trainer's
	// default. With merged, a module that [Converter.Merge] could not merge is refused.
	Formats []string
	// MicroBatchTokens bounds one pass of the model; 0: the trainer chooses it
	// from the free memory.
	MicroBatchTokens int
	// MemoryShare is the part of the usual memory that a micro-batch may take; 0
	// is 1.
	MemoryShare float64

	// Host and Port are the address to listen at; empty and 0: any port of the loopback. Token is
	// the bearer token; empty: a new one.
	Host  string
	Port  int
	Token string
	// Companion starts the companion of a trainer elsewhere instead: the tokenizer and the
	// conversion of adapters, without a model. Only Python, SourceDir, Model, Root, Formats and
	// the fields below have an effect.
	Companion bool

	// Inherit are environment variables that the trainer gets in addition to those
	// of the system and its libraries: NAME or NAME=VALUE.
	Inherit []string
	// StartTimeout bounds the time until the trainer is ready; 0 is 3 minutes,
	// because the first import of torch from a slow disk takes long. It is 3 minutes
	// for each GPU, because ranks may load the model one after the other.
	StartTimeout time.Duration
	// Grace is how long the trainer may take to end after its stdin ended; 0 is 5 seconds.
	Grace time.Duration
	// Kills counts kills for lack of memory; nil: see [process.Command].
	Kills func() int
	// Log gets what the trainer logs; the zero value is silent.
	Log zerolog.Logger
}

// Ready is the event that a trainer writes when it is ready.
type Ready struct {
	Port      int    `json:"port"`
	PID       int    `json:"pid"`
	Model     string `json:"model"`
	VocabSize int    `json:"vocab_size"`
	// Followers are the processes of the other ranks, if there are several GPUs.
	Followers []int `json:"followers"`
}

// A Process is a running trainer. It ends when empo2 ends, even by SIGKILL.
type Process struct {
	child  *process.Process
	token  string
	output output
	first  Ready

	alive  context.Context // ends with the process; its cause says why
	exited chan struct{}
}

// Start starts a trainer and waits until it is ready. The context bounds the
// start only. Close the process when done.
func Start(ctx context.Context, cfg ProcessConfig) (*Process, error) {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 3 * time.Minute * time.Duration(max(1, cfg.GPUs))
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	p := &Process{token: cmp.Or(cfg.Token, newToken()), output: output{log: cfg.Log}, exited: make(chan struct{})}
	c, err := p.command(cfg)
	if err != nil {
		return nil, fmt.Errorf("start trainer: %w", err)
	}
	if p.child, err = process.Start(ctx, c); err != nil {
		if exit := p.output.exitError(err); exit != nil {
			exit.refused = !exit.killed
			err = fmt.Errorf("start trainer: %w", exit)
		}
		return nil, err
	}
	alive, die := context.WithCancelCause(context.Background())
	p.alive = alive
	go func() {
		defer close(p.exited)
		<-p.child.Done()
		die(p.reason(cfg.Log))
	}()
	return p, nil
}

// URL returns the trainer's address, without a slash at the end.
func (p *Process) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", p.first.Port) }

// Token returns the bearer token that this process was started with.
func (p *Process) Token() string { return p.token }

// Ready returns the event that the trainer wrote when it was ready.
func (p *Process) Ready() Ready { return p.first }

// Exited is closed when the process has ended, whatever the reason.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err is nil while the process runs. It is an [*ExitError] after an unexpected
// end, and [ErrUnavailable] after Close.
func (p *Process) Err() error { return context.Cause(p.alive) }

// Close ends the process and returns when it has ended. It closes stdin, then
// sends SIGTERM, then SIGKILL, with the grace between these steps.
func (p *Process) Close() error {
	p.child.Stop()
	<-p.exited
	return nil
}

func (p *Process) command(cfg ProcessConfig) (process.Command, error) {
	paths := []string{cfg.SourceDir, cfg.Model, cfg.Root}
	for i, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return process.Command{}, err
		}
		paths[i] = abs
	}
	source, model, root := paths[0], paths[1], paths[2]
	args := []string{cfg.Python, "-m", "empo2_trainer", "serve", "--model", model, "--root", root,
		"--host", cmp.Or(cfg.Host, "127.0.0.1"), "--port", strconv.Itoa(cfg.Port), "--seed", strconv.FormatInt(cfg.Seed, 10)}
	if cfg.Threads > 0 {
		args = append(args, "--threads", strconv.Itoa(cfg.Threads))
	}
	if cfg.Deterministic {
		args = append(args, "--deterministic")
	}
	if cfg.MicroBatchTokens > 0 {
		args = append(args, "--micro-batch-tokens", strconv.Itoa(cfg.MicroBatchTokens))
	}
	if cfg.MemoryShare > 0 && cfg.MemoryShare < 1 {
		args = append(args, "--memory-share", strconv.FormatFloat(cfg.MemoryShare, 'g', -1, 64))
	}
	flags := map[string]string{"--dtype": cfg.Dtype, "--quantize": cfg.Quantize, "--device": cfg.Device}
	for flag, value := range flags {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	args = append(args, rankFlags(cfg)...)
	if len(cfg.Formats) > 0 {
		args = append(args, "--formats", strings.Join(cfg.Formats, ","))
	}
	name := "trainer"
	if cfg.Companion {
		name = "companion"
		args = []string{cfg.Python, "-m", "empo2_trainer", name, "--model", model, "--root", root}
		if len(cfg.Formats) > 0 {
			args = append(args, "--formats", strings.Join(cfg.Formats, ","))
		}
	}
	return process.Command{
		Name: name, Args: args,
		// Python looks for modules in its working directory first. This must not
		// be the user's directory.
		Dir:     source,
		Needs:   process.Libraries | process.Models,
		Inherit: cfg.Inherit,
		Env:     []string{"PYTHONPATH=" + source, "PYTHONDONTWRITEBYTECODE=1", "EMPO2_TRAINER_TOKEN=" + p.token},
		Secrets: []string{p.token},
		Ready:   p.readReady, StartTimeout: cfg.StartTimeout,
		Stdin: true, Grace: cfg.Grace,
		Stdout: p.output.line, Stderr: p.output.line, Kills: cfg.Kills, Log: cfg.Log,
	}, nil
}

// rankFlags are the flags of a trainer with several ranks.
func rankFlags(cfg ProcessConfig) []string {
	if cfg.GPUs <= 1 {
		return nil
	}
	args := []string{"--gpus", strconv.Itoa(cfg.GPUs)}
	if cfg.Parallel != "" {
		args = append(args, "--parallel", cfg.Parallel)
	}
	if cfg.RankTimeout > 0 {
		args = append(args, "--rank-timeout", strconv.FormatFloat(cfg.RankTimeout.Seconds(), 'f', -1, 64))
	}
	return args
}

// reason returns why the process ended.
func (p *Process) reason(log zerolog.Logger) error {
	err := p.output.exitError(p.child.Err())
	if err.stopped {
		return fmt.Errorf("%w: it was closed", ErrUnavailable)
	}
	log.Error().Str("state", err.State).Str("fatal", err.Fatal).Msg("trainer ended")
	return err
}

// newToken returns 128 random bits. The child gets the token in its environment,
// which other users cannot read.
func newToken() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
