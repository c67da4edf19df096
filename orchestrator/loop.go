// Package orchestrator runs the training loop of EMPO² (arXiv 2602.23008) and
// of GRPO, which is the same loop without the memory. An adaptation run is the
// same loop with the memory on and the weights unchanged. The loop knows
// environments, servers, memories and trainers only by their interfaces.
//
// A step has seven stages, each in a file of its own: plan, sample, reflect,
// estimate, train, publish, commit. [Loop] is what a run is given, state is
// what it keeps from one step to the next. Stages hand values to each other
// and change neither, so that a step can be sampled while the one before it
// is trained: see overlap.go.
//
// Deviations from the paper are all configured: modes may be mixed within a
// group (algorithm.mode_draw = "episode") with the tip-free episodes as
// baseline, tips may be written with the adapter off (reflection.by), and a
// KL to the base model may act in the context that was sampled
// (loss.kl_sampled).
package orchestrator

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// Trainer is what the loop needs of a trainer. Versions are step numbers;
// version 0 is the untrained adapter. After any error the trainer's state is
// unknown until Restore has succeeded. It is used by one goroutine at a time.
type Trainer interface {
	// ForwardBackward adds the gradient of a loss over rows. It also returns
	// log π_θ of each row's tokens[1:], in nats, from before the update.
	ForwardBackward(ctx context.Context, rows []trainerbridge.Row, loss trainerbridge.Loss) (
		trainerbridge.Stats, [][]float32, error)
	// OptimStep applies the accumulated gradient.
	OptimStep(ctx context.Context, adam trainerbridge.Adam) (trainerbridge.Stats, error)
	// Forward returns log π_θ of each row's tokens[1:], in nats. It reads only
	// the rows' Tokens.
	Forward(ctx context.Context, rows []trainerbridge.Row) ([][]float32, error)
	// Save writes adapter and optimizer state as the checkpoint of a version.
	Save(ctx context.Context, version int) error
	// Export writes the adapter of a version for the inference server.
	Export(ctx context.Context, version int) (trainerbridge.Exported, error)
	// Restore brings the trainer to the checkpoint of a version and starts it
	// if it is gone. Version 0 needs no checkpoint.
	Restore(ctx context.Context, version int) error
}

// Loop is what one run is given: its configuration and everything that it
// uses. The run does not change it. A zero value is allowed only where a
// comment says so.
type Loop struct {
	Config config.Config
	Family envs.Family
	Ledger *ledger.Ledger
	// Backend serves the policy. If it checks versions with a canary, Canary
	// returns the largest log-prob difference of the newest check, in nats.
	Backend sampler.Backend
	Canary  func() float64 // nil: no canary
	// ServerMemory returns the memory of the servers that the backend has
	// started, in bytes. Nil: it is unknown.
	ServerMemory func() int64
	// LateRequests returns how many requests the backend has sent to a second replica
	// too, because they were late at the first one. Nil: it has one server.
	LateRequests func() int64
	// Driver plays episodes. Its PromptTemplate is used until ReadPrompt
	// returns another one.
	Driver *rollout.Driver
	// ReadPrompt reads the prompt template. It is called before every step.
	ReadPrompt func() (prompt.Template, error) // nil: the template of Driver
	Trainer    Trainer                         // nil: nothing is trained (adapt)
	Sleeper    sampler.Sleeper                 // sleeps while the trainer works; nil: the server stays awake
	Memory     memory.Strategy                 // nil: no memory (grpo)
	Log        zerolog.Logger                  // zero: silent
	Observer   Observer                        // nil: nobody is told

	// RestartPause is the pause before the second restart of the trainer; it
	// doubles with each further one. 0: a second.
	RestartPause time.Duration

	now       atomic.Int64 // the step that runs
	late      atomic.Int64 // LateRequests at the last commit
	once      sync.Once
	recovered *recovery // see recoverer

	onceProgress sync.Once
	told         *progress // see progress
	oneAtATime   Observer  // see observer
}

// observer is the Observer, for callers that run beside each other; nil: there is none.
func (l *Loop) observer() Observer {
	l.progress()
	return l.oneAtATime
}

// progress tells the observer in which phase the run is.
func (l *Loop) progress() *progress {
	l.onceProgress.Do(func() {
		if l.Observer != nil {
			l.oneAtATime = &serialObserver{to: l.Observer}
		}
		l.told = &progress{observer: l.oneAtATime, of: int64(l.Config.Run.Steps)}
	})
	return l.told
}

// recoverer restores the trainer, at every moment of the run.
func (l *Loop) recoverer() *recovery {
	l.once.Do(func() { l.recovered = newRecovery(l) })
	return l.recovered
}

// StartTrainer starts the trainer with the untrained adapter. Run does it too; a
// caller may start the server at the same time.
func (l *Loop) StartTrainer(ctx context.Context) error { return l.recoverer().restore(ctx, "start", 0) }

// WithTrainer calls f, which uses the trainer before Run does, for example its
// tokenizer. If the trainer fails, it is started again, and f is called again. f
// must not train.
func (l *Loop) WithTrainer(ctx context.Context, what string, f func() error) error {
	if l.Trainer == nil {
		return f()
	}
	_, err := l.recoverer().do(ctx, what, 0, f)
	return err
}

// takeLate returns the late requests since it was called last.
func (l *Loop) takeLate() int {
	if l.LateRequests == nil {
		return 0
	}
	n := l.LateRequests()
	return int(n - l.late.Swap(n))
}

// Step returns the step that runs, or that is about to run. It may be called at
// any time: events of a server belong to it.
func (l *Loop) Step() int64 { return l.now.Load() }

// FindStep reads which step comes next. A caller that starts the trainer, the server
// or the environment before Run calls it first, so that events of the start belong to
// this step.
func (l *Loop) FindStep(ctx context.Context) error {
	last, err := l.Ledger.Last(ctx)
	if err == nil {
		l.now.Store(last.Step + 1)
	}
	return err
}

// begin begins a phase of a step. total is the number of its units; 0: nothing is
// counted.
func (l *Loop) begin(ctx context.Context, step int64, phase string, total int, unit string) {
	l.now.Store(step)
	l.progress().begin(ctx, watchdog.Phase{Name: phase, Step: step, Total: total, Unit: unit})
}

// Run trains until the configured number of steps (or seconds) is reached,
// continuing from the last committed step, and evaluates. When ctx ends it
// returns its cause; everything committed is kept.
func (l *Loop) Run(ctx context.Context) (Summary, error) {
	s, err := l.open(ctx)
	if err != nil {
		return Summary{}, err
	}
	if err := s.recordContinuation(ctx); err != nil {
		return Summary{}, err
	}
	run := s.runInTurn
	if l.Config.Rollout.MaxStaleness > 0 && l.Trainer != nil {
		run = s.runOverlapped
	}
	if err := run(ctx); err != nil {
		return Summary{}, err
	}
	for _, split := range []envs.Split{envs.Eval, envs.Test} {
		if err := s.evaluate.final(ctx, s.state, split); err != nil {
			return Summary{}, err
		}
	}
	return Summarize(ctx, l.Ledger)
}

// runInTurn samples a step, trains it, and then samples the next one.
func (s *session) runInTurn(ctx context.Context) error {
	for !s.finished() {
		if s.evaluationDue() {
			if err := s.evaluate.once(ctx, s.state, envs.Eval, s.loop.Config.Eval.Episodes); err != nil {
				return err
			}
		}
		if err := s.step(ctx); err != nil {
			return fmt.Errorf("step %d: %w", s.state.step+1, err)
		}
	}
	return nil
}

// evaluationDue reports whether the committed step is one after which the run evaluates.
func (s *session) evaluationDue() bool {
	n := s.loop.Config.Eval.Every
	return n > 0 && s.state.step%int64(n) == 0
}

// KindCommand is the kind of the stored episodes of [Loop.EvaluateNewest].
const KindCommand = "command"

// EvaluateNewest evaluates the newest committed policy without training.
func (l *Loop) EvaluateNewest(ctx context.Context, split envs.Split, episodes int) (Evaluation, error) {
	s, err := l.open(ctx)
	if err != nil {
		return Evaluation{}, err
	}
	tasks, err := l.Family.Tasks(split)
	if err != nil {
		return Evaluation{}, err
	}
	if len(tasks) == 0 {
		return Evaluation{}, fmt.Errorf("environment %s has no task in split %q", l.Family.Name(), split)
	}
	// Those of an earlier command may be of another split, or more.
	if err := l.Ledger.DropUntrained(ctx, KindCommand, s.state.step); err != nil {
		return Evaluation{}, err
	}
	return s.evaluate.run(ctx, s.state, evaluationTask{split: split, tasks: tasks, episodes: episodes,
		kind: KindCommand})
}

// Score returns log π of tokens[1:] under the trainer's present adapter, in
// nats.
func (l *Loop) Score(ctx context.Context, tokens []int32) ([]float32, error) {
	return score(ctx, l.Trainer, tokens)
}
