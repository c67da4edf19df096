package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/empo2/empo2/orchestrator/advantage"
)

// eventGenerated is the kind of the event for groups that replace those of equal returns.
const eventGenerated = "further groups"

// generate samples a step. With algorithm.generation_batches above 1, groups of equal
// returns are not trained, and further groups are sampled in their place until the step
// has algorithm.groups others, or until so many batches of groups are sampled (dynamic
// sampling of DAPO, arXiv 2503.14476, section 3.2). The plan in the ledger grows before a
// batch begins, so that a continued run samples the same episodes.
func (s *session) generate(ctx context.Context, planned Planned, before state) (Planned, Sampled, error) {
	for {
		sampled, err := s.sample.run(ctx, planned, before.policy, s.reflect.with(planned, before.policy))
		limit := s.loop.Config.Algorithm.GenerationBatches
		if err != nil || !s.estimate.enabled || limit <= 1 {
			return planned, sampled, err
		}
		sampled.tied = s.estimate.tied(sampled)
		missing := s.loop.Config.Algorithm.Groups - (len(planned.Groups) - len(sampled.tied))
		if missing <= 0 || planned.Further+1 >= limit {
			return planned, sampled, nil
		}
		text := fmt.Sprintf("%d of %d groups have equal returns; batch %d of at most %d samples %s", len(sampled.tied),
			len(planned.Groups), planned.Further+2, limit, countOf(missing, "group"))
		if planned, err = s.plan.extend(ctx, planned, missing); err != nil {
			return planned, sampled, err
		}
		s.loop.Log.Info().Int64("step", planned.Step).Msg(text)
		if err := s.loop.Ledger.Event(ctx, planned.Step, eventGenerated, text); err != nil {
			return planned, sampled, err
		}
	}
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// extend adds groups to a plan, and writes it to the ledger.
func (s planStage) extend(ctx context.Context, p Planned, groups int) (Planned, error) {
	p.Plan = furtherGroups(s.config, s.tasks, p.Plan, groups)
	text, err := json.Marshal(p.Plan)
	if err != nil {
		return p, err
	}
	return p, s.ledger.ExtendPlan(ctx, p.Step, text)
}

// tied returns the groups whose returns are all equal.
func (s estimateStage) tied(in Sampled) map[int]bool {
	out := map[int]bool{}
	for g, group := range in.Groups {
		if advantage.Tied(s.score(group, in.Plan.Groups[g], in.Version).returns) {
			out[g] = true
		}
	}
	return out
}
