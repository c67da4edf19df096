// Package orchestrator runs the training loop of EMPO² (arXiv 2602.23008) and
// of GRPO, which is the same loop with the memory off: plan a step, sample
// groups with and without tips, reflect, estimate advantages, train, publish
// the new adapter, commit. An adaptation run is the same loop with the memory
// on and the weights left alone. It knows environments, servers, memories and
// trainers only by their interfaces.
//
// Deviations from the paper, all of them keys: modes may be mixed within a
// group (algorithm.mode_draw = "episode") with the tip-free episodes as
// baseline, tips may be written with the adapter off (reflection.by), and a
// KL to the base model may act in the context that was sampled
// (loss.kl_sampled).
package orchestrator

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
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
	ForwardBackward(ctx context.Context, rows []trainerbridge.Row, loss trainerbridge.Loss) (trainerbridge.Stats, [][]float32, error)
	// OptimStep applies the accumulated gradient.
	OptimStep(ctx context.Context, adam trainerbridge.Adam) (trainerbridge.Stats, error)
	// Forward returns log π_θ of each row's tokens[1:], in nats. Only Tokens
	// are read.
	Forward(ctx context.Context, rows []trainerbridge.Row) ([][]float32, error)
	// Save writes adapter and optimizer state as the checkpoint of a version.
	Save(ctx context.Context, version int) error
	// Export writes the adapter of a version for the inference server.
	Export(ctx context.Context, version int) (trainerbridge.Exported, error)
	// Restore brings the trainer to the checkpoint of a version, starting it
	// anew if it is gone. Version 0 needs no checkpoint.
	Restore(ctx context.Context, version int) error
}

// Loop is one run. All fields but Memory and the callbacks must be set.
type Loop struct {
	Config  config.Config
	Family  envs.Family
	Ledger  *ledger.Ledger
	Backend sampler.Backend
	Driver  *rollout.Driver
	Trainer Trainer // nil where nothing is trained (adapt)
	// Sleeper is put to sleep while the trainer works; nil: the server stays awake.
	Sleeper sampler.Sleeper
	// Memory is nil for GRPO.
	Memory memory.Strategy
	// Canary returns the largest log-prob difference that the newest
	// publication's canary showed; nil if there is none.
	Canary func() float64
	// Prompt reads the prompt template anew before every step; nil: that of
	// Driver stays.
	Prompt func() (prompt.Template, error)
	Log    zerolog.Logger
	// OnStep and OnEvaluation are called after the commit, in order. They may
	// be nil.
	OnStep       func(StepMetrics)
	OnEvaluation func(Evaluation)

	tasks       []envs.Task
	tipRoom     int             // tokens that training episodes leave for their tip
	environment json.RawMessage // what the environment's scores rest on; nil: nothing else
	prompt      string          // checksum of the template that was recorded last
	context     int             // tokens that the server holds of a conversation; 0: unknown
	base        sampler.Policy  // the adapter off
	policy      sampler.Policy  // the newest version
	episodes    int             // training episodes committed
	warned      bool            // of the mismatch, since it was last small
	seconds     float64         // of training committed
}

// commitTimeout bounds what a commit may take, the memory included.
const commitTimeout = 5 * time.Minute

// Summary is what a run came to.
type Summary struct {
	Steps       int64         `json:"steps"`
	Version     int           `json:"version"`
	Episodes    int           `json:"episodes"`
	Seconds     float64       `json:"seconds"` // training, without evaluations
	Evaluations []Evaluation  `json:"evaluations"`
	History     []StepMetrics `json:"-"`
}

// Run trains until the configured number of steps (or seconds) is reached,
// continuing what the ledger holds, and evaluates. When ctx ends it returns
// its cause; everything committed stays.
func (l *Loop) Run(ctx context.Context) (Summary, error) {
	last, err := l.prepare(ctx)
	if err != nil {
		return Summary{}, err
	}
	step := last.Step
	if step > 0 && !l.finished(step) {
		l.Log.Info().Int64("step", step).Int("version", last.Version).Msg("continuing")
		if err := l.Ledger.Event(ctx, step, "continued", fmt.Sprintf("with version %d", last.Version)); err != nil {
			return Summary{}, err
		}
	}
	for !l.finished(step) {
		if e := l.Config.Eval.Every; e > 0 && step%int64(e) == 0 {
			if err := l.evaluateOnce(ctx, step, l.Config.Eval.Episodes, envs.Eval); err != nil {
				return Summary{}, err
			}
		}
		if err := l.step(ctx, step+1); err != nil {
			return Summary{}, fmt.Errorf("step %d: %w", step+1, err)
		}
		step++
	}
	for _, split := range []envs.Split{envs.Eval, envs.Test} {
		if err := l.evaluateFinal(ctx, step, split); err != nil {
			return Summary{}, err
		}
	}
	return Summarize(ctx, l.Ledger)
}

func (l *Loop) finished(step int64) bool {
	limit := l.Config.Run.MaxSeconds
	return step >= int64(l.Config.Run.Steps) || limit > 0 && l.seconds >= limit
}

// prepare brings trainer and server to the last committed step.
func (l *Loop) prepare(ctx context.Context) (ledger.Step, error) {
	var err error
	if l.tasks, err = l.Family.Tasks(envs.Train); err != nil {
		return ledger.Step{}, err
	}
	if len(l.tasks) == 0 {
		return ledger.Step{}, fmt.Errorf("environment %s has no training task", l.Family.Name())
	}
	history, err := History(ctx, l.Ledger)
	if err != nil {
		return ledger.Step{}, err
	}
	for _, m := range history {
		l.episodes, l.seconds = m.Episodes, l.seconds+m.Seconds.Total
	}
	last, err := l.Ledger.Last(ctx)
	if err != nil {
		return last, err
	}
	if err := l.recordEnvironment(ctx, last.Step); err != nil {
		return last, err
	}
	// Restore first: nothing is discarded before the checkpoint is known to be good.
	if l.Trainer != nil {
		if err := l.Trainer.Restore(ctx, last.Version); err != nil {
			return last, err
		}
		if err := l.Ledger.DiscardAfter(last.Version); err != nil {
			return last, err
		}
	}
	base := sampler.Adapter{}
	if last.Version == 0 && l.Trainer != nil { // else the trainer speaks for the newest version, whose canary follows
		base.Score = l.score(0)
	}
	if l.base, err = l.Backend.Publish(ctx, base); err != nil {
		return last, fmt.Errorf("serve the base model: %w", err)
	}
	l.policy = l.base
	can, err := l.Backend.Capabilities(ctx)
	if err != nil {
		return last, err
	}
	l.context = can.ContextLength
	if last.Version > 0 {
		export, err := l.Trainer.Export(ctx, last.Version)
		if err != nil {
			return last, fmt.Errorf("export version %d: %w", last.Version, err)
		}
		if _, err = l.publish(ctx, last.Version, export); err != nil {
			return last, err
		}
	}
	return last, nil
}

// step runs one training step from plan to commit.
func (l *Loop) step(ctx context.Context, step int64) error {
	start := time.Now()
	plan, err := l.plan(ctx, step)
	if err != nil {
		return err
	}
	m := StepMetrics{Step: step, Modes: map[Mode]int{}, Stops: map[rollout.StopReason]int{}}
	groups, err := l.sample(ctx, plan)
	if err != nil {
		return err
	}
	m.Seconds.Sample = time.Since(start).Seconds()
	describe(&m, plan, groups, l.Config.Novelty.Weight)

	var items []item
	if l.Trainer != nil {
		items = l.items(plan, groups, &m)
	}
	previous := l.policy
	var version *ledger.Version
	if len(items) > 0 {
		if version, err = l.update(ctx, step, items, &m); err != nil {
			return err
		}
	}
	if version != nil {
		l.retire(ctx, previous) // a continued run would publish it again
	}
	// From here to the commit Ctrl-C waits: the update is paid for.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), commitTimeout, errors.New("the commit took too long"))
	defer cancel()
	if err := l.commit(ctx, step, plan, groups, version, &m, start); err != nil {
		return err
	}
	if err := l.Ledger.Prune(ctx, l.Config.Run.KeepCheckpoints); err != nil {
		return err
	}
	if l.OnStep != nil {
		l.OnStep(m)
	}
	return nil
}

// plan returns the step's plan, from the ledger if it was drawn before.
func (l *Loop) plan(ctx context.Context, step int64) (Plan, error) {
	text, err := l.Ledger.Plan(ctx, step)
	if err != nil {
		return Plan{}, err
	}
	if text != nil {
		var p Plan
		if err := json.Unmarshal(text, &p); err != nil {
			return Plan{}, fmt.Errorf("plan in run.db: %w", err)
		}
		return p, l.oldPrompt(ctx, p)
	}
	p := newPlan(l.Config, l.tasks, step, l.policy.Version)
	if p.Prompt, err = l.newPrompt(ctx, step); err != nil {
		return Plan{}, err
	}
	if text, err = json.Marshal(p); err != nil {
		return Plan{}, err
	}
	return p, l.Ledger.SavePlan(ctx, step, text)
}

// commit makes the step true, with the memory in the same transaction.
func (l *Loop) commit(ctx context.Context, step int64, plan Plan, groups [][]rollout.Trajectory, v *ledger.Version, m *StepMetrics, start time.Time) error {
	if err := l.learn(ctx, plan, groups); err != nil {
		return err
	}
	m.Version = l.policy.Version
	m.Episodes = l.episodes + plan.Episodes()
	m.Seconds.Total = time.Since(start).Seconds()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	done := func(bool) {}
	err = l.Ledger.Commit(ctx, ledger.Step{Step: step, Version: l.policy.Version, Metrics: text}, v, func(tx *sql.Tx) error {
		if l.Memory == nil {
			return nil
		}
		var err error
		if d, cerr := l.Memory.Commit(ctx, tx); cerr != nil {
			err = cerr
		} else {
			done = d
		}
		return err
	})
	done(err == nil)
	if err == nil {
		l.episodes, l.seconds = m.Episodes, l.seconds+m.Seconds.Total
	}
	return err
}

// History returns the metrics of all committed steps.
func History(ctx context.Context, led *ledger.Ledger) ([]StepMetrics, error) {
	steps, err := led.Steps(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]StepMetrics, len(steps))
	for i, s := range steps {
		if err := json.Unmarshal(s.Metrics, &out[i]); err != nil {
			return nil, fmt.Errorf("metrics of step %d in run.db: %w", s.Step, err)
		}
	}
	return out, nil
}

// Summarize reads what a run came to from its ledger.
func Summarize(ctx context.Context, led *ledger.Ledger) (Summary, error) {
	history, err := History(ctx, led)
	if err != nil {
		return Summary{}, err
	}
	s := Summary{History: history}
	for _, m := range history {
		s.Steps, s.Version, s.Episodes, s.Seconds = m.Step, m.Version, m.Episodes, s.Seconds+m.Seconds.Total
	}
	evaluations, err := led.Evaluations(ctx)
	for _, text := range evaluations {
		var e Evaluation
		err = errors.Join(err, json.Unmarshal(text, &e))
		s.Evaluations = append(s.Evaluations, e)
	}
	return s, err
}
