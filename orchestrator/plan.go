package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// Mode is how an episode is sampled and trained (EMPO², table of section 4).
type Mode string

const (
	// OnPolicy: sampled and trained without tips.
	OnPolicy Mode = "on_policy"
	// OnPolicyTips: sampled and trained with tips.
	OnPolicyTips Mode = "on_policy_tips"
	// OffPolicy: sampled with tips, trained with every tip removed.
	OffPolicy Mode = "off_policy"
)

// Tips reports whether episodes of this mode are sampled with tips.
func (m Mode) Tips() bool { return m != OnPolicy }

// Plan holds all random draws of a step, made before anything is sampled.
// Except for the prompt, what was measured of the steps before (algorithm.memory_anneal)
// and groups in place of others (algorithm.generation_batches), it is a pure function of
// (configuration, tasks, step).
type Plan struct {
	Step    int64  `json:"step"`
	Version int    `json:"version"`          // of the policy that samples
	Prompt  string `json:"prompt,omitempty"` // checksum of the prompt template, kept by the ledger
	// Further counts the batches of groups after the first (algorithm.generation_batches).
	Further int `json:"further,omitempty"`
	// MemoryProbability is p_mem of the step if it is annealed; 0: that of the configuration.
	MemoryProbability float64     `json:"memory_probability,omitempty"`
	Groups            []GroupPlan `json:"groups"`
}

// GroupPlan is one group: episodes of one task.
type GroupPlan struct {
	Task     envs.Task     `json:"task"`
	Episodes []EpisodePlan `json:"episodes"`
}

// EpisodePlan is one episode of a group.
type EpisodePlan struct {
	Mode Mode   `json:"mode"`
	Seed uint64 `json:"seed"`
}

// Episodes counts the plan's episodes.
func (p Plan) Episodes() int {
	n := 0
	for _, g := range p.Groups {
		n += len(g.Episodes)
	}
	return n
}

// tasks returns the tasks of the groups.
func (p Plan) tasks() []envs.Task {
	out := make([]envs.Task, len(p.Groups))
	for i, g := range p.Groups {
		out[i] = g.Task
	}
	return out
}

// Planned is a step whose plan is in the ledger.
type Planned struct {
	Plan
	prompt promptState // the template of the step's episodes
}

// planStage draws a step's plan and writes it to the ledger.
type planStage struct {
	config  config.Config
	tasks   []envs.Task // of training
	ledger  *ledger.Ledger
	prompts promptReader
}

// run returns the plan of the step after before. A plan that is in the ledger
// is used again, with the prompt template of that time.
func (s planStage) run(ctx context.Context, before state) (Planned, error) {
	step := before.step + 1
	text, err := s.ledger.Plan(ctx, step)
	if err != nil {
		return Planned{}, err
	}
	var out Planned
	if text != nil {
		if err := json.Unmarshal(text, &out.Plan); err != nil {
			return Planned{}, fmt.Errorf("plan in run.db: %w", err)
		}
		out.prompt, err = s.prompts.of(ctx, out.Plan, before.prompt)
		return out, err
	}
	c := s.config
	c.Algorithm.MemoryProbability = memoryProbability(c.Algorithm, before.recent)
	out.Plan = newPlan(c, s.tasks, step, before.policy.Version)
	if c.Algorithm.MemoryAnneal {
		out.Plan.MemoryProbability = c.Algorithm.MemoryProbability
	}
	if out.prompt, err = s.prompts.next(ctx, step, before.prompt); err != nil {
		return Planned{}, err
	}
	out.Prompt = out.prompt.recorded
	if text, err = json.Marshal(out.Plan); err != nil {
		return Planned{}, err
	}
	return out, s.ledger.SavePlan(ctx, step, text)
}
