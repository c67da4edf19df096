package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler/rollout"
)

// evaluateOnce evaluates without tips unless the ledger holds the result.
func (l *Loop) evaluateOnce(ctx context.Context, step int64, episodes int, split envs.Split) error {
	if known, err := l.Ledger.Evaluation(ctx, step, string(split)); err != nil || known != nil {
		return err
	}
	tasks, err := l.Family.Tasks(split)
	if err != nil || len(tasks) == 0 {
		return err
	}
	e, err := l.Evaluate(ctx, step, tasks, episodes, split)
	if err != nil {
		return fmt.Errorf("evaluation at step %d: %w", step, err)
	}
	e.Environment = l.environment
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := l.Ledger.SaveEvaluation(ctx, step, string(split), e.Version, text); err != nil {
		return err
	}
	if l.OnEvaluation != nil {
		l.OnEvaluation(e)
	}
	return nil
}

// evaluateFinal evaluates with the larger number of episodes, once, when the
// run is over.
func (l *Loop) evaluateFinal(ctx context.Context, step int64, split envs.Split) error {
	if known, err := l.Ledger.Evaluation(ctx, step, string(split)); err != nil {
		return err
	} else if known != nil {
		var e Evaluation
		if err := json.Unmarshal(known, &e); err != nil {
			return fmt.Errorf("evaluation in run.db: %w", err)
		}
		if e.Episodes+e.Failed >= l.Config.Eval.FinalEpisodes {
			return nil
		}
		if err := l.Ledger.DropEvaluation(ctx, step, string(split)); err != nil {
			return err
		}
	}
	return l.evaluateOnce(ctx, step, l.Config.Eval.FinalEpisodes, split)
}

// Evaluate runs episodes without tips, spread evenly over tasks, with the
// newest policy; only an adaptation run shows them, as the memory is all that
// it has learnt. Seeds depend on the run's seed and the episode only, so that
// every evaluation draws alike.
func (l *Loop) Evaluate(ctx context.Context, step int64, tasks []envs.Task, episodes int, split envs.Split) (Evaluation, error) {
	start := time.Now()
	specs := make([]rollout.EpisodeSpec, episodes)
	var recall rollout.RecallFunc
	if l.Config.Algorithm.Name == "adapt" {
		recall = l.recall
	}
	for i := range specs {
		specs[i] = rollout.EpisodeSpec{
			Task: tasks[i%len(tasks)], Step: step, Group: i % len(tasks), Episode: i / len(tasks),
			Seed: childSeed(l.Config.Run.Seed, "evaluate "+string(split), uint64(i)), Policy: l.policy,
			Temperature: l.Config.Eval.Temperature, TopP: l.Config.Eval.TopP, TopK: l.Config.Eval.TopK,
			Stop: l.Config.Rollout.Stop, MaxSteps: l.Config.Rollout.MaxTurns,
			MaxTokens: l.Config.Rollout.MaxTokens, Recall: recall, Keep: rollout.Keep(l.Config.Memory.Keep),
		}
	}
	done := l.evaluateAll(ctx, specs)
	if ctx.Err() != nil {
		return Evaluation{}, context.Cause(ctx)
	}
	e := Evaluation{
		Kind: string(split), Step: step, Version: l.policy.Version, Temperature: l.Config.Eval.Temperature,
		TrainSeconds: l.seconds, TrainEpisodes: l.episodes, Tips: recall != nil,
	}
	if err := summarize(&e, tasks, done); err != nil {
		return Evaluation{}, err
	}
	e.Seconds = time.Since(start).Seconds()
	return e, nil
}

func (l *Loop) evaluateAll(ctx context.Context, specs []rollout.EpisodeSpec) []rollout.Trajectory {
	var done []rollout.Trajectory
	l.scheduler().Sample(ctx, specs, func(t rollout.Trajectory) {
		done = append(done, t)
	})
	return done
}

// summarize fills the statistics of e from finished episodes, whose Group is
// the index of their task.
func summarize(e *Evaluation, tasks []envs.Task, done []rollout.Trajectory) error {
	results := make([]TaskResult, len(tasks))
	var scores []float64
	for _, t := range done {
		if t.Failed() {
			e.Failed++
			continue
		}
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
		return fmt.Errorf("all %d episodes failed: %s", len(done), firstError(done))
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

// EvaluateNewest evaluates the newest committed policy without training.
func (l *Loop) EvaluateNewest(ctx context.Context, split envs.Split, episodes int) (Evaluation, error) {
	last, err := l.prepare(ctx)
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
	return l.Evaluate(ctx, last.Step, tasks, episodes, split)
}
