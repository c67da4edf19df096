// Package vllm is the backend for one or several vLLM servers. It connects to
// running servers or launches them. Start with [Open]; server.go has the
// requests, probe.go finds out what a server can do, and package fleet does the
// rest.
//
// Prompts and answers are token ids. Every version has its own directory and
// name, because these are the key of vLLM's prefix cache: no version uses the
// keys and values of another. A cache salt separates runs. An adapter is never
// replaced under the same name, because vLLM would change the weights during a
// request. The tests use recordings of version 0.32.0.
package vllm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

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

// Config describes the servers. Either URLs or Launch.Model is required.
type Config struct {
	// URLs has one URL per replica, for example http://127.0.0.1:8000. The URL of a
	// load balancer does not work, because each server must load the adapters.
	URLs  []string
	Model string // the base model's served name; empty: the server must have only one
	// Alias is the prefix of adapter names such as <Alias>-v000012. It must
	// differ between runs on one server. Empty: "policy".
	Alias string
	// APIKey is the server's --api-key. Empty: none, or a random one for servers
	// that are launched with the built-in recipe or a command with {key}.
	APIKey string
	// CacheSalt separates this run's prefix caches from those of other clients
	// and of earlier runs with the same names and directories.
	CacheSalt bool
	// Tolerance is the largest difference of a replica's log-probs from the
	// trainer's when a version is published, in nats; 0: 0.05.
	Tolerance float64
	// Codec is the trainer's tokenizer. Open compares it with that of each server.
	// Nil: the servers' tokenizer is used. Open then compares the servers.
	Codec chat.Codec

	RequestTimeout time.Duration // of one request at one replica; 0: 5 minutes
	LoadTimeout    time.Duration // until a version is served everywhere; 0: 2 minutes
	HealthInterval time.Duration // between two health checks of a replica; 0: 5 seconds
	// Patience is how long requests wait while no replica is healthy; 0: 2
	// minutes, or the start timeout of launched servers.
	Patience    time.Duration
	MaxInFlight int // requests at one replica; 0: 64
	// Sleep says that servers may sleep. Open wakes a server that sleeps. Without
	// Sleep, such a server is an error.
	Sleep bool

	Launch LaunchConfig // used if URLs is empty
	// OnReturn, if not nil, is called with the URL of a replica that was
	// readmitted.
	OnReturn func(url string)
	// OnRestart, if not nil, is called with the URL of a launched server that ended,
	// and with the reason, before it is restarted.
	OnRestart func(url string, why error)
	Log       zerolog.Logger // the zero value is silent
}

// Backend serves policies from the replicas. It is safe for concurrent use.
type Backend struct {
	*fleet.Backend
	text tokenizer
}

// A tokenizer is the trainer's tokenizer or the servers'.
type tokenizer interface {
	chat.Tokenizer
	chat.ControlTokens
}

// Open connects to the servers, or launches them. It probes what they can do
// and whether they serve the trainer's model. The context bounds the start
// only. No version is published yet.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	b, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("vllm: %w", err)
	}
	return b, nil
}

func open(ctx context.Context, cfg Config) (*Backend, error) {
	servers, err := cfg.servers(ctx)
	if err != nil {
		return nil, err
	}
	text := cfg.tokenizer(servers)
	pool, err := fleet.Open(ctx, fleet.Config{
		Servers: servers, Section: "sampler.vllm", Alias: cfg.Alias, Tolerance: cfg.Tolerance,
		CanaryPrompt:   func(ctx context.Context) ([]int32, error) { return text.Tokenize(ctx, fleet.CanaryText) },
		RequestTimeout: cfg.RequestTimeout, LoadTimeout: cfg.LoadTimeout, HealthInterval: cfg.HealthInterval,
		Patience: cfg.patience(), MaxInFlight: cfg.MaxInFlight, Sleep: cfg.Sleep, OnReturn: cfg.OnReturn, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	var own chat.Tokenizer // nil: the first server's
	if cfg.Codec != nil {
		own = cfg.Codec
	}
	if err := pool.CompareTokenizers(ctx, own); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return &Backend{Backend: pool, text: text}, nil
}

// servers returns clients for the URLs, or launches servers.
func (c *Config) servers(ctx context.Context) ([]fleet.Server, error) {
	salt := ""
	if c.CacheSalt {
		salt = "-" + rand.Text()
	}
	client := func(url string) *server {
		return &server{Client: fleet.NewClient(url, c.APIKey, c.MaxInFlight), model: c.Model, salt: salt, key: c.APIKey}
	}
	if len(c.URLs) == 0 {
		return c.launch(ctx, client)
	}
	var servers []fleet.Server
	for _, url := range c.URLs {
		servers = append(servers, client(url))
	}
	return servers, nil
}
