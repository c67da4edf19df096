package orchestrator

import (
	"context"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/rollout"
)

// contextBudget divides the server's context between prompts and answers.
type contextBudget struct {
	length     int // tokens that the server holds of a conversation; 0: unknown
	reflection int // longest answer to the request for a tip, in tokens
}

// maxPrompt is the longest prompt that leaves room for an answer of the given
// number of tokens; 0 if the length of the context is unknown.
func (b contextBudget) maxPrompt(answer int) int {
	if b.length == 0 {
		return 0
	}
	return max(1, b.length-answer)
}

// episodePrompt is the longest prompt of an episode of some tasks, in training and in
// evaluations; 0 if the length of the context is unknown. reflects says that training
// episodes are reflected upon.
func (b contextBudget) episodePrompt(ctx context.Context, d *rollout.Driver, tasks []envs.Task, maxTokens int,
	reflects bool) (int, error) {
	reserve := 0
	if reflects {
		var err error
		if reserve, err = b.tipReserve(ctx, d, tasks); err != nil {
			return 0, err
		}
	}
	return b.maxPrompt(maxTokens + reserve), nil
}

// PromptLimit is the longest prompt of a run's episodes of some tasks, in tokens, with a
// server that holds length tokens; 0: only the server limits it.
func PromptLimit(ctx context.Context, c config.Config, length int, d *rollout.Driver, tasks []envs.Task) (int, error) {
	b := contextBudget{length: length, reflection: c.Reflection.MaxTokens}
	return b.episodePrompt(ctx, d, tasks, c.Rollout.MaxTokens, c.Reflects())
}

// glueTokens stand between the last action and the request for a tip.
const glueTokens = 8

// tipReserve is how many tokens an episode leaves free for the request for a
// tip and its answer, so that an episode that fills the context is reflected
// upon too: long failures are the most instructive. Nothing is reserved if
// that would take more than half of the context, or if the server takes text
// and has limits of its own.
func (b contextBudget) tipReserve(ctx context.Context, d *rollout.Driver, tasks []envs.Task) (int, error) {
	if b.length == 0 || d.ChatTemplate == nil {
		return 0, nil
	}
	request := 0
	seen := map[string]bool{}
	for _, task := range tasks {
		if seen[task.Reflection] {
			continue
		}
		seen[task.Reflection] = true
		ids, err := d.ChatTemplate.Extend(ctx, nil, d.PromptTemplate.Request(task, envs.Observation{}))
		if err != nil {
			return 0, err
		}
		request = max(request, len(ids))
	}
	if reserve := request + glueTokens + b.reflection; 2*reserve <= b.length {
		return reserve, nil
	}
	return 0, nil
}
