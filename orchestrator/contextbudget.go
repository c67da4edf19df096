package orchestrator

import (
	"context"

	"github.com/empo2/empo2/envs"
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

// glueTokens stand between the last action and the request for a tip.
const glueTokens = 8

// tipReserve is how many tokens an episode leaves free for the request for a
// tip and its answer, so that an episode that fills the context is reflected
// upon too: long failures are the most instructive. Nothing is reserved if
// that would take more than half of the context, or if the server takes text
// and has limits of its own.
func (b contextBudget) tipReserve(ctx context.Context, d *rollout.Driver, plan Plan) (int, error) {
	if b.length == 0 || d.ChatTemplate == nil {
		return 0, nil
	}
	request := 0
	seen := map[string]bool{}
	for _, group := range plan.Groups {
		if seen[group.Task.Reflection] {
			continue
		}
		seen[group.Task.Reflection] = true
		ids, err := d.ChatTemplate.Extend(ctx, nil, d.PromptTemplate.Request(group.Task, envs.Observation{}))
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
