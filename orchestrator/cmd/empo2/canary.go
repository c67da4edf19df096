package main

import (
	"context"
	"fmt"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

// addCanary wraps the backend: it serves a version only after the canary has
// compared its log-probs with the trainer's. Without a trainer there is no canary.
func (r *run) addCanary(ctx context.Context, server served, template *chat.Template) error {
	l := r.loop
	if m, ok := server.Backend.(interface{ MemoryInUse() int64 }); ok {
		l.ServerMemory = m.MemoryInUse
	}
	if m, ok := server.Backend.(interface{ LateRequests() int64 }); ok {
		l.LateRequests = m.LateRequests
	}
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
		l.Log.Info().Int("version", c.Version).Float64("max_diff", c.MaxDiff).Float64("moved", c.Moved).
			Stringer("took", c.Took.Round(time.Millisecond)).Msg("canary")
	})
	l.Canary = func() float64 { return last.MaxDiff }
	return nil
}

// canaryPrompt returns the first prompt of the first training task.
func canaryPrompt(
	ctx context.Context, family envs.Family, template *chat.Template, texts prompt.Template,
) ([]int32, error) {
	tasks, err := family.Tasks(envs.Train)
	if err != nil || len(tasks) == 0 {
		return nil, fmt.Errorf("environment %s: no training task: %w", family.Name(), err)
	}
	defer watchdog.Begin(ctx, "environment", "first prompt of the first training task", 0)()
	episode, err := family.Open(ctx, tasks[0])
	if err != nil {
		return nil, err
	}
	defer episode.Close()
	o, err := episode.Reset(ctx)
	if err != nil {
		return nil, err
	}
	return template.Extend(ctx, nil, append(texts.Opening(tasks[0]), texts.Turn(o, nil))...)
}
