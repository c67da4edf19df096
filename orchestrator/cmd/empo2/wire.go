package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// embedders are the memory's embedders by their name in config.toml. Servers
// get the key in EMPO2_EMBEDDER_KEY, if there is one.
var embedders = map[string]func(context.Context, config.Memory) (memory.Embedder, error){
	"ngram": func(context.Context, config.Memory) (memory.Embedder, error) { return embed.NGram{}, nil },
	"openai": func(ctx context.Context, m config.Memory) (memory.Embedder, error) {
		return embed.OpenOpenAI(ctx, embeddingServer(m))
	},
	"ollama": func(ctx context.Context, m config.Memory) (memory.Embedder, error) {
		return embed.OpenOllama(ctx, embeddingServer(m))
	},
}

func embeddingServer(m config.Memory) embed.Server {
	return embed.Server{URL: m.URL, Model: m.Model, APIKey: os.Getenv("EMPO2_EMBEDDER_KEY")}
}

// run is everything that one training run has open. Close in the reverse
// order of opening: the loop has ended, then backend, trainer, ledger.
type run struct {
	loop   *orchestrator.Loop
	ledger *ledger.Ledger
	closes []func() error
}

// Close stops what openRun started.
func (r *run) Close() error {
	var errs []error
	for i := len(r.closes) - 1; i >= 0; i-- {
		errs = append(errs, r.closes[i]())
	}
	return errors.Join(errs...)
}

// openRun opens or creates the run's folder and starts trainer and server.
func openRun(ctx context.Context, c config.Config, t tools, log zerolog.Logger) (_ *run, err error) {
	r := &run{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	family, err := openFamily(ctx, c, log)
	if err != nil {
		return nil, err
	}
	r.closes = append(r.closes, family.Close)
	if r.ledger, err = openLedger(ctx, c); err != nil {
		return nil, err
	}
	r.closes = append(r.closes, r.ledger.Close)
	root, err := filepath.Abs(r.ledger.Dir)
	if err != nil {
		return nil, err
	}
	r.loop = &orchestrator.Loop{Config: c, Family: family, Ledger: r.ledger, Log: log}
	server, err := r.start(ctx, opening{config: c, tools: t, event: r.event(ctx), log: log}, root)
	if err != nil {
		return nil, err
	}
	return r, r.connect(ctx, server)
}

// start starts trainer and server, at the same time unless prompts are made
// with the trainer's tokenizer.
func (r *run) start(ctx context.Context, o opening, root string) (served, error) {
	group, startCtx := errgroup.WithContext(ctx)
	if trains(o.config) {
		trainer := newTrainer(o.config, o.tools, root, o.log)
		r.closes = append(r.closes, trainer.Close)
		r.loop.Trainer = trainer
		if backends[o.config.Sampler.Backend].codec {
			if err := trainer.Restore(ctx, 0); err != nil {
				return served{}, err
			}
			o.codec = &trainerCodec{trainer.Codec()}
			o.codec.TemplateArgs = o.config.Sampler.TemplateArgs
			r.closes = append(r.closes, o.codec.Close)
		} else {
			group.Go(func() error { return trainer.Restore(startCtx, 0) })
		}
	}
	var server served
	group.Go(func() (err error) {
		server, err = openServer(startCtx, o)
		return err
	})
	err := group.Wait()
	if server.Backend != nil {
		r.closes = append(r.closes, server.Close)
	}
	return server, err
}

// event records what happened to a server.
func (r *run) event(ctx context.Context) func(kind, detail string) {
	return func(kind, detail string) {
		_ = r.ledger.Event(context.WithoutCancel(ctx), 0, kind, detail) // the log has it too
	}
}

// connect gives the loop its policy, its rendering and its memory.
func (r *run) connect(ctx context.Context, server served) error {
	l := r.loop
	// The tokenizer is the server's own, so the base model is served first.
	if _, err := server.Publish(ctx, sampler.Adapter{}); err != nil {
		return fmt.Errorf("serve the base model: %w", err)
	}
	template, err := server.newTemplate(ctx, l.Config)
	if err != nil {
		return err
	}
	if template != nil && template.Unstable() != "" {
		l.Log.Warn().Str("template", template.Name()).Str("why", template.Unstable()).Msg("the chat template does not only grow: every turn is a training row of its own")
	}
	l.ReadPrompt = func() (prompt.Template, error) { return readFormat(l.Config) }
	format, err := l.ReadPrompt()
	if err != nil {
		return err
	}
	l.Driver = &rollout.Driver{
		Family: l.Family, ChatTemplate: template, PromptTemplate: format, Log: l.Log,
		Thinking: chat.Thinking(l.Config.Sampler.Thinking), Retokenized: server.retokenised,
		SampleTimeout: sampleTimeout(l.Config), CleanTip: memory.CleanTip,
	}
	switch { // servers of text parse control tokens in it
	case template == nil:
		l.Driver.Neutralize = chat.ControlTexts()
	case server.retokenised:
		l.Driver.Neutralize = template.ControlTexts()
	}
	l.Sleeper = server.sleeper
	if err := r.addCanary(ctx, server, template); err != nil {
		return err
	}
	l.Driver.Backend = l.Backend
	if l.Config.Algorithm.Name == "grpo" {
		return nil
	}
	bank, err := r.openMemory(ctx, l.Config)
	if err != nil {
		return err
	}
	l.Memory = bank
	return nil
}

// addCanary lets the loop use a version only after its canary, where there is a
// trainer to tell what the server should say.
func (r *run) addCanary(ctx context.Context, server served, template *chat.Template) error {
	l := r.loop
	if l.Trainer == nil {
		l.Backend = server.Backend
		return nil
	}
	prompt, err := canaryPrompt(ctx, l.Family, template, l.Driver.PromptTemplate)
	if err != nil {
		return err
	}
	var last sampler.Canary
	l.Backend = sampler.WithCanary(server.Backend, prompt, l.Config.Sampler.CanaryTolerance, func(c sampler.Canary) {
		last = c
		l.Log.Info().Int("version", c.Version).Float64("max_diff", c.MaxDiff).Float64("moved", c.Moved).Dur("took", c.Took).Msg("canary")
	})
	l.Canary = func() float64 { return last.MaxDiff }
	return nil
}

// openMemory opens the bank in the run's database.
func (r *run) openMemory(ctx context.Context, c config.Config) (*memory.Bank, error) {
	embedder, err := embedders[c.Memory.Embedder](ctx, c.Memory)
	if err != nil {
		return nil, err
	}
	if server, ok := embedder.(io.Closer); ok {
		r.closes = append(r.closes, server.Close)
	}
	m := memory.DefaultConfig(embedder)
	m.K, m.Threshold, m.Capacity = c.Memory.K, c.Memory.Threshold, c.Memory.Capacity
	m.Novelty, m.NoveltyCap = memory.Novelty(c.Novelty.Source), c.Novelty.Cap
	if err := memory.Migrate(ctx, r.ledger.DB()); err != nil {
		return nil, err
	}
	return memory.OpenBank(ctx, r.ledger.DB(), m)
}

func newTrainer(c config.Config, t tools, root string, log zerolog.Logger) *trainerbridge.Local {
	return &trainerbridge.Local{
		Process: trainerbridge.ProcessConfig{
			Python: t.python, SourceDir: t.sources, Model: t.model, Root: root,
			Threads: c.Trainer.Threads, Dtype: c.Trainer.Dtype, Device: c.Trainer.Device,
			Formats: c.Sampler.AdapterFormats(), Log: log,
		},
		Client: trainerbridge.ClientConfig{
			Rank: c.Trainer.Rank, Alpha: c.Trainer.Alpha, Seed: int64(c.Run.Seed & (1<<31 - 1)),
			TargetModules: c.Trainer.TargetModules, Timeout: seconds(c.Trainer.TimeoutSeconds), Log: log,
		},
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// canaryPrompt is the first prompt of the first training task.
func canaryPrompt(ctx context.Context, family envs.Family, template *chat.Template, format prompt.Template) ([]int32, error) {
	tasks, err := family.Tasks(envs.Train)
	if err != nil || len(tasks) == 0 {
		return nil, fmt.Errorf("environment %s: no training task: %w", family.Name(), err)
	}
	episode, err := family.Open(ctx, tasks[0])
	if err != nil {
		return nil, err
	}
	defer episode.Close()
	o, err := episode.Reset(ctx)
	if err != nil {
		return nil, err
	}
	return template.Extend(ctx, nil, append(format.Opening(tasks[0]), format.Turn(o, nil))...)
}

// readSummary reads what a run came to without starting anything.
func readSummary(ctx context.Context, dir string) (orchestrator.Summary, error) {
	l, err := ledger.Open(ctx, dir)
	if err != nil {
		return orchestrator.Summary{}, err
	}
	s, err := orchestrator.Summarize(ctx, l)
	return s, errors.Join(err, l.Close())
}
