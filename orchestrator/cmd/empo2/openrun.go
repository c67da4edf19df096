package main

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

// run has everything that a training run has open. Close it after the loop has
// ended.
type run struct {
	loop   *orchestrator.Loop
	show   func(watchdog.Phase) // shows the phases of the start
	ledger *ledger.Ledger
	server served
	// template is nil if the server takes messages.
	template *chat.Template
	watch    *watcher
	pieces   *pieceSaver // nil: the server does not know the texts of tokens
	ended    string      // how the run ended; empty: it was closed before
	closes   []func() error
}

// train runs the training loop.
func (r *run) train(ctx context.Context) (orchestrator.Summary, error) {
	summary, err := r.loop.Run(r.watched(ctx))
	switch {
	case err == nil:
		r.ended = watchdog.EndedDone
	case ctx.Err() != nil:
		r.ended = context.Cause(ctx).Error()
	default:
		r.ended, _ = splitHint(err)
	}
	return summary, err
}

// observe has observers told what happens in the run.
func (r *run) observe(observers ...orchestrator.Observer) {
	all := orchestrator.Observers{r.watch}
	if r.pieces != nil {
		all = append(all, r.pieces)
	}
	r.loop.Observer = append(all, observers...)
}

// watched returns a context with the run's watchdog.
func (r *run) watched(ctx context.Context) context.Context { return watchdog.With(ctx, r.watch.watch) }

// Close stops what openRun started, in reverse order: backend, trainer,
// environment, ledger.
func (r *run) Close() error {
	var errs []error
	for i := len(r.closes) - 1; i >= 0; i-- {
		errs = append(errs, r.closes[i]())
	}
	return errors.Join(errs...)
}

// openRun opens or creates the run's folder, opens the environment, starts trainer
// and server, and connects them to the training loop. show is called with the phases
// of the start.
func openRun(
	ctx context.Context, c config.Config, t tools, log zerolog.Logger, show func(watchdog.Phase),
) (_ *run, err error) {
	r := &run{show: show}
	defer func() {
		if err != nil {
			r.ended, _ = splitHint(cmp.Or(context.Cause(ctx), err))
			err = errors.Join(err, r.Close())
		}
	}()
	if r.ledger, err = openFolder(ctx, c); err != nil {
		return nil, err
	}
	r.closes = append(r.closes, r.ledger.Close)
	r.loop = &orchestrator.Loop{Config: c, Ledger: r.ledger, Log: log}
	if err = r.loop.FindStep(ctx); err != nil {
		return nil, err
	}
	r.watch = startWatcher(ctx, c, r.ledger.Dir, log, func(text string) { r.event(ctx)("stall", text) })
	r.closes = append(r.closes, func() error { r.watch.close(cmp.Or(r.ended, watchdog.EndedClosed)); return nil })
	ctx = r.watched(ctx)
	o := opening{config: c, tools: t, event: r.event(ctx), log: log}
	r.begin(startPhase(c, "environment"))
	if r.loop.Family, err = openFamily(ctx, o); err != nil {
		return nil, err
	}
	r.closes = append(r.closes, r.loop.Family.Close)
	// A mistake in the environment's keys must not become the configuration of the run.
	if err = saveFirst(ctx, r.ledger, c); err != nil {
		return nil, err
	}
	root, err := filepath.Abs(r.ledger.Dir)
	if err != nil {
		return nil, err
	}
	r.begin(startPhase(c, processes(c)))
	server, err := r.start(ctx, o, root)
	if err != nil {
		return nil, err
	}
	return r, r.connect(ctx, server)
}

// begin begins a phase of the start.
func (r *run) begin(p watchdog.Phase) {
	r.watch.watch.SetPhase(p)
	r.watch.Phase(p)
	r.show(p)
}

// processes names what a run starts or connects to, beside its environment.
func processes(c config.Config) string {
	if trains(c) {
		return "trainer and server"
	}
	return "server"
}

// start starts trainer and server. It starts them at the same time, unless the
// backend needs the trainer's tokenizer.
func (r *run) start(ctx context.Context, o opening, root string) (served, error) {
	group, startCtx := errgroup.WithContext(ctx)
	if trains(o.config) {
		share, err := orchestrator.MemoryShare(ctx, r.ledger)
		if err != nil {
			return served{}, err
		}
		trainer := openTrainer(o.config, o.tools, root, share, o.log)
		r.closes = append(r.closes, trainer.Close)
		r.loop.Trainer = trainer
		if backends[o.config.Sampler.Backend].codec {
			if err := r.loop.StartTrainer(ctx); err != nil {
				return served{}, err
			}
			o.codec = &trainerCodec{trainer.Codec()}
			o.codec.TemplateArgs = o.config.Sampler.TemplateArgs
			r.closes = append(r.closes, o.codec.Close)
		} else {
			group.Go(func() error { return r.loop.StartTrainer(startCtx) })
		}
	}
	var server served
	open := func() (err error) {
		server, err = openServer(startCtx, o)
		return err
	}
	if o.codec != nil { // the trainer runs already, and the server needs it
		group.Go(func() error { return r.loop.WithTrainer(startCtx, "start of the server", open) })
	} else {
		group.Go(open)
	}
	err := group.Wait()
	if server.Backend != nil {
		r.closes = append(r.closes, server.Close)
	}
	return server, err
}

// event returns a function that records an event of a child process in the ledger.
func (r *run) event(ctx context.Context) func(kind, detail string) {
	return func(kind, detail string) {
		_ = r.ledger.Event(context.WithoutCancel(ctx), r.loop.Step(), kind, detail) // the log has it too
	}
}

// connect gives the loop its backend, its templates and its memory.
func (r *run) connect(ctx context.Context, server served) error {
	l := r.loop
	// The tokenizer may be the server's, so the base model must be served first.
	if err := server.serveBase(ctx); err != nil {
		return err
	}
	var template *chat.Template
	err := l.WithTrainer(ctx, "chat template", func() (err error) {
		if trainer, ok := l.Trainer.(runTrainer); ok {
			if err := compareTokenizers(ctx, l.Config, trainer, server); err != nil {
				return err
			}
		}
		template, err = server.newTemplate(ctx, l.Config)
		return err
	})
	if err != nil {
		return err
	}
	r.server, r.template = server, template
	if server.decoder != nil { // its requests are not what the run waits for
		r.pieces = startPieceSaver(watchdog.With(ctx, nil), r.ledger, server.decoder, l.Log)
		r.closes = append(r.closes, r.pieces.Close)
	}
	if template != nil && template.Unstable() != "" {
		l.Log.Warn().Str("template", template.Name()).Str("why", template.Unstable()).
			Msg("the chat template rewrites earlier turns, so every turn is a separate training row")
	}
	l.ReadPrompt = func() (prompt.Template, error) { return readPromptTemplate(l.Config) }
	texts, err := l.ReadPrompt()
	if err != nil {
		return err
	}
	l.Driver = server.newDriver(l.Config, template)
	l.Driver.Family, l.Driver.PromptTemplate, l.Driver.Log = l.Family, texts, l.Log
	l.Sleeper = server.sleeper
	if err := r.addCanary(ctx, server, template); err != nil {
		return err
	}
	l.Driver.Backend = l.Backend
	if !l.Config.HasMemory() {
		return nil
	}
	m, err := r.openMemory(ctx, l.Config)
	l.Memory = m.Strategy
	return err
}

// seconds converts a number of seconds from the configuration. Products of several
// keys are bounded too: a time.Duration that overflows would be in the past.
func seconds(s float64) time.Duration {
	const longest = 1e9 // about 30 years
	return time.Duration(min(s, longest) * float64(time.Second))
}

// readSummary reads the results of a run from its folder and starts nothing.
func readSummary(ctx context.Context, dir string) (orchestrator.Summary, error) {
	l, err := ledger.Open(ctx, dir)
	if err != nil {
		return orchestrator.Summary{}, err
	}
	s, err := orchestrator.Summarize(ctx, l)
	return s, errors.Join(err, l.Close())
}
