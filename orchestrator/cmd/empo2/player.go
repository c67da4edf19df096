package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// A player plays episodes that nothing is trained on. It has an environment and a
// server that serves one version of the policy. It has a trainer only if the server
// needs its tokenizer. Close it after the last episode.
type player struct {
	source
	family envs.Family
	server served
	driver *rollout.Driver // without a prompt template
	policy sampler.Policy
	served map[int]sampler.Policy // by version
	log    zerolog.Logger
	closes []func() error
	// serverText says that prompts are only tokenized, by the server: no trainer starts.
	serverText bool
}

// openPlayer opens the environment. Call start before the first episode. concurrency is
// the number of episodes that are played at the same time.
func openPlayer(ctx context.Context, s source, concurrency int, log zerolog.Logger) (*player, error) {
	p := &player{source: s, served: map[int]sampler.Policy{}, log: log}
	if _, err := s.adapter(ctx); err != nil { // before minutes of set-up
		return nil, err
	}
	p.config.Rollout.Concurrency = min(p.config.Rollout.Concurrency, concurrency)
	p.config.Sampler.Concurrency = min(p.config.Sampler.Concurrency, concurrency)
	family, err := openFamily(ctx, opening{config: p.config, log: log})
	if err != nil {
		return nil, err
	}
	p.family, p.closes = family, append(p.closes, family.Close)
	return p, nil
}

// start finds or installs what the server needs, starts it and has the version served.
func (p *player) start(ctx context.Context, out *console) error {
	t, err := p.tools(ctx, out)
	if err != nil {
		return err
	}
	defer out.endPhase("")
	out.phase("", watchdog.Phase{Name: watchdog.PhaseStart, Detail: p.starts(), Since: time.Now()})
	if err := p.startServer(ctx, t); err != nil {
		return err
	}
	if err := p.prepare(ctx); err != nil {
		return err
	}
	p.policy, err = p.serve(ctx, p.source)
	return err
}

// tools finds or installs what start needs.
func (p *player) tools(ctx context.Context, out *console) (tools, error) {
	if p.serverText {
		return findModel(p.config)
	}
	return setUp(ctx, p.config, out, p.log)
}

// starts names what start starts.
func (p *player) starts() string {
	if p.usesTrainer() {
		return "trainer and server"
	}
	return "server"
}

// usesTrainer reports whether the trainer tokenizes prompts.
func (p *player) usesTrainer() bool {
	return trains(p.config) && backends[p.config.Sampler.Backend].codec && !p.serverText
}

// Close stops what was opened and started, in reverse order. It does not close the
// source.
func (p *player) Close() error {
	var errs []error
	for i := len(p.closes) - 1; i >= 0; i-- {
		errs = append(errs, p.closes[i]())
	}
	return errors.Join(errs...)
}

// startServer starts the server, and the trainer if the server needs its tokenizer.
// Names of this process on a server that others use too differ from those of runs.
func (p *player) startServer(ctx context.Context, t tools) error {
	o := opening{config: p.config, tools: t, untrained: true, serverText: p.serverText, log: p.log,
		event: func(kind, detail string) { p.log.Info().Str("detail", detail).Msg(kind) }}
	o.config.Run.Name = fmt.Sprintf("try-%d", os.Getpid())
	if p.usesTrainer() {
		root, err := os.MkdirTemp("", "empo2-try-")
		if err != nil {
			return err
		}
		p.closes = append(p.closes, func() error { return os.RemoveAll(root) })
		trainer, err := startCodec(ctx, p.config, t, root, p.log)
		p.closes = append(p.closes, trainer.Close)
		if err != nil {
			return err
		}
		o.codec = &trainerCodec{trainer.Codec()}
		o.codec.TemplateArgs = p.config.Sampler.TemplateArgs
		p.closes = append(p.closes, o.codec.Close)
	}
	var err error
	p.server, err = openServer(ctx, o)
	if err == nil {
		p.closes = append(p.closes, p.server.Close)
	}
	return err
}

// startCodec starts what has the tokenizer: the trainer, or the companion of one elsewhere, which need not be reached.
func startCodec(ctx context.Context, c config.Config, t tools, root string, log zerolog.Logger) (runTrainer, error) {
	if c.Trainer.URL != "" {
		remote := newRemote(c, t, root, log)
		return remote, remote.Accompany(ctx)
	}
	trainer := newTrainer(c, t, root, log)
	return trainer, trainer.Restore(ctx, 0)
}

// prepare serves the base model and makes the driver.
func (p *player) prepare(ctx context.Context) error {
	// The tokenizer may be the server's, so the base model must be served first.
	if err := p.server.serveBase(ctx); err != nil {
		return err
	}
	if p.config.Sampler.LlamaCPP.GGUF != "" && trains(p.config) { // no trainer runs here
		p.log.Warn().Msg("the tokenizer of sampler.llamacpp.gguf is not compared with the model's; " +
			"empo2 doctor compares them")
	}
	template, err := p.server.newTemplate(ctx, p.config)
	if err != nil {
		return err
	}
	p.driver = p.server.newDriver(p.config, template)
	p.driver.Family, p.driver.Log = p.family, p.log
	return nil
}

// serve has the version of a source served.
func (p *player) serve(ctx context.Context, s source) (sampler.Policy, error) {
	if policy, ok := p.served[s.version]; ok {
		return policy, nil
	}
	adapter, err := s.adapter(ctx)
	if err != nil {
		return sampler.Policy{}, err
	}
	policy, err := p.server.Publish(ctx, adapter)
	if err != nil {
		return policy, fmt.Errorf("serve version %d: %w", s.version, err)
	}
	p.served[s.version] = policy
	if policy.Version > 0 {
		p.closes = append(p.closes, func() error { return p.server.Retire(context.WithoutCancel(ctx), policy) })
	}
	return policy, nil
}

// with returns the driver for a prompt template.
func (p *player) with(texts prompt.Template) *rollout.Driver {
	d := *p.driver
	d.PromptTemplate = texts
	return &d
}

// spec describes an episode as a training episode without tips is sampled. Its
// place is step 0, and the group and number of the caller.
func (p *player) spec(task envs.Task, seed uint64) rollout.EpisodeSpec {
	r := p.config.Rollout
	return rollout.EpisodeSpec{
		Task: task, Seed: seed, Policy: p.policy, Temperature: r.Temperature, TopP: r.TopP, TopK: r.TopK, Stop: r.Stop,
		MaxTurns: r.MaxTurns, MaxTokens: r.MaxTokens, Keep: rollout.Keep(p.config.Memory.Keep),
	}
}

// promptLimit is the longest prompt of the run's episodes of a task; 0: only the server
// limits it.
func (p *player) promptLimit(ctx context.Context, c config.Config, texts prompt.Template, tasks ...envs.Task) (
	int, error) {
	can, err := p.server.Capabilities(ctx)
	if err != nil {
		return 0, err
	}
	return orchestrator.PromptLimit(ctx, c, can.ContextLength, p.with(texts), tasks)
}

// The values of --tips and of tips=… that are no text of a tip.
const (
	tipsNone = "none"
	tipsAuto = "auto"
)

// tips returns what shows the tips that the user chose: none, those of the run's
// memory (auto), or texts. It also returns a name for the choice.
func (p *player) tips(ctx context.Context, s source, choice []string) (rollout.RecallFunc, string, error) {
	switch {
	case len(choice) == 0 || len(choice) == 1 && choice[0] == tipsNone:
		return nil, "without tips", nil
	case len(choice) == 1 && choice[0] == tipsAuto:
		recall, err := p.openMemory(ctx, s)
		return recall, "with the tips of the run's memory", err
	}
	return fixedTips(choice), "with " + counted(len(choice), "tip") + " of yours", nil
}

// fixedTips shows the same tips in every episode.
func fixedTips(texts []string) rollout.RecallFunc {
	tips := make([]prompt.Tip, len(texts))
	for i, text := range texts {
		tips[i] = prompt.Tip{ID: int64(i + 1), Text: text}
	}
	return func(context.Context, rollout.Query) (rollout.Recalled, error) {
		return rollout.Recalled{Tips: tips, Similar: len(tips)}, nil
	}
}

// checkMemory refuses a source without a memory.
func (s source) checkMemory() error {
	if s.run != nil && s.config.HasMemory() {
		return nil
	}
	return &config.Error{Place: "--tips auto, tips=auto", Msg: "there is no memory: " + s.String(),
		Hint: "name a run with a memory, or give the text of a tip"}
}

// openMemory opens the memory of a source's run.
func (p *player) openMemory(ctx context.Context, s source) (rollout.RecallFunc, error) {
	if err := s.checkMemory(); err != nil {
		return nil, err
	}
	m, err := openMemory(ctx, s.run.DB(), s.config)
	if err != nil {
		return nil, fmt.Errorf("memory of %s: %w", s.run.Dir, err)
	}
	p.closes = append(p.closes, m.Close)
	return orchestrator.RecallFrom(m.Strategy), nil
}
