package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/rollout"
)

// An evaluator runs episodes that are not trained on.
type evaluator struct {
	config      config.Config
	family      envs.Family
	ledger      *ledger.Ledger
	runner      episodeRunner
	recall      rollout.RecallFunc // nil: no tips are shown
	choose      choice
	budget      contextBudget
	reflects    bool            // training episodes are reflected upon
	environment json.RawMessage // the record of the environment
	progress    *progress
	observer    Observer // nil: not told
	replies     replyReporter
	warned      *shares // of what the evaluations of this process have warned of
}

// evaluationTask says what to evaluate on.
type evaluationTask struct {
	split    envs.Split
	tasks    []envs.Task
	episodes int // spread evenly over tasks
	// kind is that of the stored episodes; empty: the split.
	kind string
}

// once evaluates the committed step unless the ledger holds the result.
func (e evaluator) once(ctx context.Context, now state, split envs.Split, episodes int) error {
	if known, err := e.ledger.Evaluation(ctx, now.step, string(split)); err != nil || known != nil {
		return err
	}
	tasks, err := e.family.Tasks(split)
	if err != nil || len(tasks) == 0 {
		return err
	}
	result, err := e.run(ctx, now, evaluationTask{split: split, tasks: tasks, episodes: episodes})
	if err != nil {
		return fmt.Errorf("evaluation at step %d: %w", now.step, err)
	}
	result.Environment = e.environment
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	if err := e.ledger.SaveEvaluation(ctx, now.step, string(split), result.Version, text); err != nil {
		return err
	}
	if err := e.replies.evaluation(ctx, result, now.warned, e.warned); err != nil {
		return err
	}
	if e.observer != nil {
		e.observer.Evaluation(result)
	}
	return nil
}

// final evaluates the end of the run with the larger number of episodes,
// unless the ledger holds such a result.
func (e evaluator) final(ctx context.Context, now state, split envs.Split) error {
	known, err := e.ledger.Evaluation(ctx, now.step, string(split))
	if err != nil {
		return err
	}
	if known != nil {
		var before Evaluation
		if err := json.Unmarshal(known, &before); err != nil {
			return fmt.Errorf("evaluation in run.db: %w", err)
		}
		if before.Episodes+before.Failed >= e.config.Eval.FinalEpisodes {
			return nil
		}
		if err := e.ledger.DropEvaluation(ctx, now.step, string(split)); err != nil {
			return err
		}
	}
	return e.once(ctx, now, split, e.config.Eval.FinalEpisodes)
}

// Finished reports whether [Loop.Run] with a configuration would neither train nor
// evaluate. ended says that an earlier Run has returned without an error: a split that
// it has not evaluated has no tasks.
func Finished(ctx context.Context, led *ledger.Ledger, c config.Config, ended bool) (bool, error) {
	s, err := Summarize(ctx, led)
	if err != nil || !reached(c, s.Steps, s.Seconds) {
		return false, err
	}
	evaluated := map[string]bool{}
	for _, e := range s.Evaluations {
		if e.Step != s.Steps {
			continue
		}
		if e.Episodes+e.Failed < c.Eval.FinalEpisodes {
			return false, nil
		}
		evaluated[e.Kind] = true
	}
	all := evaluated[string(envs.Eval)] && evaluated[string(envs.Test)]
	return all || ended && len(evaluated) > 0, nil
}

// run evaluates the newest policy without tips. Only an adaptation run shows
// tips, because the memory is all that it has learnt. Seeds depend on the
// run's seed and the episode only, so that all evaluations use the same seeds.
func (e evaluator) run(ctx context.Context, now state, t evaluationTask) (Evaluation, error) {
	begun := time.Now()
	e.progress.begin(ctx, watchdog.Phase{Name: watchdog.PhaseEvaluation, Step: now.step, Total: t.episodes,
		Unit: "episodes"})
	t.tasks = Spread(t.tasks, t.episodes)
	// Conversations have the limit of training.
	limit, err := e.budget.episodePrompt(ctx, e.runner.driverFor(now.prompt), t.tasks, e.config.Rollout.MaxTokens,
		e.reflects)
	if err != nil {
		return Evaluation{}, err
	}
	specs := make([]rollout.EpisodeSpec, t.episodes)
	for i := range specs {
		specs[i] = e.spec(now, t, i)
		specs[i].MaxPrompt = limit
	}
	done, err := e.play(ctx, now, t, specs)
	if err != nil {
		return Evaluation{}, err
	}
	out := Evaluation{
		Kind: string(t.split), Step: now.step, Version: now.policy.Version, Temperature: e.config.Eval.Temperature,
		TrainSeconds: now.trainSeconds, TrainEpisodes: now.episodes, Tips: e.recall != nil,
	}
	if err := summarize(&out, t.tasks, done); err != nil {
		return Evaluation{}, err
	}
	out.Seconds = time.Since(begun).Seconds()
	return out, nil
}

// play runs the episodes, stores each when it has ended, and returns them in the
// order of specs, so that sums are reproducible.
func (e evaluator) play(ctx context.Context, now state, t evaluationTask, specs []rollout.EpisodeSpec) (
	[]rollout.Trajectory, error) {
	ctx, cancel := context.WithCancelCause(ctx) // an error of the ledger ends the evaluation
	defer cancel(nil)
	done := make([]rollout.Trajectory, len(specs))
	type place struct{ group, episode int }
	index := map[place]int{}
	for i, s := range specs {
		index[place{s.Group, s.Episode}] = i
	}
	var mu sync.Mutex
	e.runner.run(ctx, now.prompt, specs, func(d rollout.Trajectory) {
		mu.Lock()
		defer mu.Unlock()
		done[index[place{d.Group, d.Episode}]] = d
		e.progress.add(watchdog.PhaseEvaluation, 1)
		if d.Failed() && ctx.Err() != nil { // it failed because the run ends
			return
		}
		if err := e.store(context.WithoutCancel(ctx), d, cmp.Or(t.kind, string(t.split))); err != nil {
			cancel(err)
		}
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return done, nil
}

func (e evaluator) store(ctx context.Context, t rollout.Trajectory, kind string) error {
	record, err := UntrainedEpisode(t, kind)
	if err != nil {
		return err
	}
	return e.ledger.AddEpisode(ctx, record)
}

// place returns the task of the i-th episode, and which one of that task it is. Every
// task is played equally often. The rest is spread, because families list similar tasks
// side by side.
func (t evaluationTask) place(i int) (task, number int) {
	n := len(t.tasks)
	number = i / n
	round := min(n, t.episodes-number*n) // episodes of this round
	return i % n * n / round, number
}

func (e evaluator) spec(now state, t evaluationTask, i int) rollout.EpisodeSpec {
	c := e.config
	task, number := t.place(i)
	return rollout.EpisodeSpec{
		Task: t.tasks[task], Step: now.step, Group: task, Episode: number,
		Seed: childSeed(c.Run.Seed, "evaluate "+string(t.split), uint64(i)), Policy: now.policy,
		Temperature: c.Eval.Temperature, TopP: c.Eval.TopP, TopK: c.Eval.TopK, Stop: c.Rollout.Stop,
		MaxTurns: c.Rollout.MaxTurns, MaxTokens: c.Rollout.MaxTokens,
		Recall: e.recall, Choose: e.choose.by, Candidates: e.choose.candidates, Keep: rollout.Keep(c.Memory.Keep),
	}
}

// summarize fills the statistics of e from finished episodes, whose Group is
// the index of their task.
func summarize(e *Evaluation, tasks []envs.Task, done []rollout.Trajectory) error {
	results := make([]TaskResult, len(tasks))
	e.Stops = map[rollout.StopReason]int{}
	var scores []float64
	for _, t := range done {
		e.Stops[t.Stop]++
		if t.Failed() {
			e.Failed++
			continue
		}
		e.Replies.add(t)
		r := &results[t.Group]
		r.Episodes++
		r.Score += t.Score
		if t.Success {
			r.Success++
			e.Success++
		}
		scores = append(scores, t.Score)
	}
	if len(scores) == 0 {
		return fmt.Errorf("%d of %d episodes failed: %s", len(done), len(done), firstError(done))
	}
	for i := range results {
		results[i].Task = tasks[i].ID
		if n := float64(results[i].Episodes); n > 0 {
			results[i].Success /= n
			results[i].Score /= n
		}
	}
	e.Tasks, e.Episodes = results, len(scores)
	e.Success /= float64(len(scores))
	e.Score, e.StdErr = meanStdErr(scores)
	return nil
}

func firstError(done []rollout.Trajectory) string {
	for _, t := range done {
		if t.Failed() {
			return t.Err
		}
	}
	return "no episode was run"
}

// meanStdErr returns the mean and its standard error.
func meanStdErr(values []float64) (mean, stdErr float64) {
	if len(values) == 0 {
		return 0, 0
	}
	for _, v := range values {
		mean += v
	}
	mean /= float64(len(values))
	sum := 0.0
	for _, v := range values {
		sum += (v - mean) * (v - mean)
	}
	if len(values) > 1 {
		stdErr = math.Sqrt(sum / float64(len(values)-1) / float64(len(values)))
	}
	return mean, stdErr
}
