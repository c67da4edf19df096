// Package sglang is the backend for one or several SGLang servers. Start with
// [Open]; server.go has the requests, probe.go finds out what a server can do, and
// package fleet does the rest.
//
// It uses the native endpoint /generate with token ids in and out. SGLang needs a
// GPU. This backend is tested only against a fake server that follows SGLang's
// sources.
package sglang

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/fleet"
)

var (
	_ sampler.Backend    = (*Backend)(nil)
	_ chat.Tokenizer     = (*Backend)(nil)
	_ chat.ControlTokens = (*Backend)(nil)
	_ sampler.Sleeper    = (*Backend)(nil)
)

// Config describes the servers. URLs, or Launch.Command, and Codec are
// required.
type Config struct {
	URLs  []string // one per replica, for example http://127.0.0.1:30000
	Model string   // the base model's served name; empty: any name
	// Alias is the prefix of adapter names such as <Alias>-v000012. It must
	// differ between runs on one server. Empty: "policy".
	Alias  string
	APIKey string // the server's --api-key; empty: none
	// Codec is the trainer's tokenizer. Open compares it with that of each server.
	// Nil: the servers' tokenizer is used. Open then compares the servers.
	Codec chat.Codec
	// Tolerance is the largest difference of a replica's log-probs from the
	// trainer's when a version is published, in nats; 0: 0.05.
	Tolerance float64

	RequestTimeout time.Duration // of one request at one replica; 0: 5 minutes
	LoadTimeout    time.Duration // until a version is served everywhere; 0: 2 minutes
	HealthInterval time.Duration // between two health checks of a replica; 0: 5 seconds
	Patience       time.Duration // how long requests wait while no replica is healthy; 0: 2 minutes
	MaxInFlight    int           // requests at one replica; 0: 64
	// Sleep says that servers may sleep. Open wakes a server that sleeps. Without
	// Sleep, such a server is an error.
	Sleep bool

	Launch LaunchConfig // used if URLs is empty
	// OnReturn, if not nil, is called with the URL of a replica that was
	// readmitted.
	OnReturn func(url string)
	// OnRestart, if not nil, is called with the URL of the launched server when it
	// has ended, and with the reason, before it is restarted.
	OnRestart func(url string, why error)
	Log       zerolog.Logger // the zero value is silent
}

// LaunchConfig describes a server to start. It ends with this process.
type LaunchConfig struct {
	Command      []string       // program and arguments, with the placeholder {port}
	Env          []string       // KEY=VALUE
	Inherit      []string       // NAME or NAME=VALUE, in addition to variables of the system, the libraries and SGLang
	StartTimeout time.Duration  // until it is ready; 0: 10 minutes
	Budget       process.Budget // of restarts of one server; the zero value: none
}

// LaunchLine returns a command line for users. It starts a server that has
// everything that a run needs.
func LaunchLine(model string, rank, resident int) string {
	return fmt.Sprintf("SGLANG_RETURN_ORIGINAL_LOGPROB=1 \\\n  python -m sglang.launch_server --model-path %s --host "+
		"127.0.0.1 --port 30000 \\\n"+
		"  --enable-lora --max-lora-rank %d --lora-target-modules all --max-loras-per-batch %d --max-loaded-loras %d "+
		"--sampling-defaults openai",
		safetext.Argument(model), rank, resident, 2*resident)
}

// Backend serves policies from the replicas. It is safe for concurrent use.
type Backend struct {
	*fleet.Backend
	codec chat.Codec // the trainer's, or the servers' own
}

// Tokenize encodes text and adds no tokens.
func (b *Backend) Tokenize(ctx context.Context, text string) ([]int32, error) {
	return b.codec.Tokenize(ctx, text)
}

// ServerText returns the servers' own tokenizer, or nil if Open got the trainer's. The
// servers do not apply their chat template for others, so that it cannot render.
func (b *Backend) ServerText() *fleet.ServerText {
	text, _ := b.codec.(*fleet.ServerText)
	return text
}

// ControlToken returns the id of a control token.
func (b *Backend) ControlToken(ctx context.Context, text string) (int32, error) {
	return b.codec.ControlToken(ctx, text)
}

// Open connects to the servers, or launches one. It probes what they can do and
// whether they serve the trainer's model. The context bounds the start only. No
// version is published yet.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	b, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("sglang: %w", err)
	}
	return b, nil
}

func open(ctx context.Context, cfg Config) (*Backend, error) {
	servers, err := cfg.servers(ctx)
	if err != nil {
		return nil, err
	}
	own := cfg.Codec
	if own == nil {
		cfg.Codec = fleet.NewServerText(servers, cfg.RequestTimeout)
	}
	pool, err := fleet.Open(ctx, fleet.Config{
		Servers: servers, Section: "sampler.sglang", Alias: cfg.Alias, Tolerance: cfg.Tolerance,
		CanaryPrompt:   func(ctx context.Context) ([]int32, error) { return cfg.Codec.Tokenize(ctx, fleet.CanaryText) },
		RequestTimeout: cfg.RequestTimeout, LoadTimeout: cfg.LoadTimeout, HealthInterval: cfg.HealthInterval,
		Patience: cfg.Patience, MaxInFlight: cfg.MaxInFlight, Sleep: cfg.Sleep, OnReturn: cfg.OnReturn, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	if err := pool.CompareTokenizers(ctx, own); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return &Backend{pool, cfg.Codec}, nil
}

// servers returns clients for the URLs, or launches a server.
func (c *Config) servers(ctx context.Context) ([]fleet.Server, error) {
	client := func(url string) *server {
		return &server{Client: fleet.NewClient(url, c.APIKey, c.MaxInFlight), model: c.Model}
	}
	var servers []fleet.Server
	for _, url := range c.URLs {
		servers = append(servers, client(url))
	}
	if len(servers) > 0 {
		return servers, nil
	}
	if len(c.Launch.Command) == 0 {
		return nil, errors.New("no server\n" +
			"  hint: set sampler.sglang.urls, or sampler.sglang.launch to a command that starts one")
	}
	s, err := c.launch(ctx, client)
	return []fleet.Server{s}, err
}

func (c *Config) launch(ctx context.Context, client func(url string) *server) (*server, error) {
	if !process.HasPlaceholder(c.Launch.Command, "port") {
		return nil, errors.New("the command has no {port}\n  hint: add --port {port} to sampler.sglang.launch")
	}
	var s *server
	err := process.OnFreePorts(1, func(ports []int) error {
		port := fmt.Sprint(ports[0])
		s = client("http://127.0.0.1:" + port)
		return c.start(ctx, s, port)
	})
	return s, err
}

func (c *Config) start(ctx context.Context, s *server, port string) error {
	l := c.Launch
	return s.Launch(ctx, process.Command{
		Name: "sglang", Args: process.FillPlaceholders(l.Command, map[string]string{"port": port}),
		Needs:   process.Network | process.Libraries | process.Models,
		Inherit: append([]string{"SGLANG_*", "SGL_*", "FLASHINFER_*"}, l.Inherit...),
		Env:     append(slices.Clone(l.Env), "EMPO2_SERVER_KEY="+c.APIKey), Secrets: []string{c.APIKey},
		Poll: s.Ready, StartTimeout: l.StartTimeout, Log: c.Log,
	}, l.Budget, c.OnRestart)
}
