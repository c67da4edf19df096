package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

// Recalled is what the memory says about a state.
type Recalled struct {
	Tips    []prompt.Tip // best first; how many is the memory's business
	Similar int          // stored states or tips that resemble this one; the bonus is 1/(1+Similar)
}

// RecallFunc asks the memory about a state. It must be safe for concurrent
// use.
type RecallFunc func(ctx context.Context, scope, state string) (Recalled, error)

// EpisodeSpec says everything about an episode before it starts. The same
// EpisodeSpec with the same memory is sampled with the same seeds.
type EpisodeSpec struct {
	Task    envs.Task
	Step    int64 // training step that it belongs to
	Group   int
	Episode int // within the group
	Seed    uint64
	Policy  sampler.Policy

	Temperature float64  // 0 is greedy
	TopP        float64  // nucleus sampling; 0 and 1: off
	TopK        int      // sampling from the most likely tokens; 0: off
	Stop        []string // strings that end a reply
	MaxSteps    int      // actions at most; 0: until the environment ends it
	MaxTokens   int      // tokens of an action at most
	MaxPrompt   int      // tokens of a prompt at most; 0: no limit of ours

	Recall RecallFunc // nil: no memory
	Keep   Keep       // empty: KeepAll
}

// StopReason says why an episode ended.
type StopReason string

const (
	// StopTerminated: the environment ended the episode.
	StopTerminated StopReason = "terminated"
	// StopTruncated: a limit of the environment ended the episode.
	StopTruncated StopReason = "truncated"
	// StopMaxSteps: the policy had acted MaxSteps times.
	StopMaxSteps StopReason = "max_steps"
	// StopContextFull: the next prompt would have been too long; it was not
	// sampled from, and everything before it counts.
	StopContextFull StopReason = "context_full"
	// StopFailed: the server, the environment or the memory failed, or the run
	// was cancelled; Err says which. Such an episode is never trained on.
	StopFailed StopReason = "failed"
)

// Turn is one observation → action → reward.
type Turn struct {
	Observation envs.Observation `json:"observation"`
	// Tips are those that this turn showed and no earlier one (KeepAll), or
	// all that it showed (KeepLatest).
	Tips []prompt.Tip `json:"tips,omitempty"`
	// Prompt are the messages that this turn added to the conversation, in
	// typed spans: the task before the first turn, then feedback, tips, state.
	Prompt []chat.Message `json:"prompt"`
	// Similar is what the memory counted; -1 if it was not asked.
	Similar   int              `json:"similar"`
	PromptLen int              `json:"prompt_len"` // tokens; 0 without a template
	IDs       []int32          `json:"ids"`
	Logprobs  sampler.Logprobs `json:"logprobs"` // one per id, as the server gave them
	// Action is what stands behind the thought, if there was one, in what the
	// policy wrote, without white space around. Text is all that it wrote,
	// where that is more.
	Action  string               `json:"action"`
	Text    string               `json:"text,omitempty"`
	Finish  sampler.FinishReason `json:"finish"`
	Version int                  `json:"version"` // of the policy that answered
	Reward  float64              `json:"reward"`  // of the environment
	Score   float64              `json:"score"`
	Took    time.Duration        `json:"took"`   // whole turn
	Sample  time.Duration        `json:"sample"` // of it, waiting for the policy
}

// Trajectory is a finished or failed episode. It holds values only and
// survives JSON unchanged.
type Trajectory struct {
	Task        envs.Task      `json:"task"`
	Step        int64          `json:"step"`
	Group       int            `json:"group"`
	Episode     int            `json:"episode"`
	Seed        uint64         `json:"seed"`
	Policy      sampler.Policy `json:"policy"`
	Temperature float64        `json:"temperature"`
	Memory      bool           `json:"memory"` // the memory was asked

	Turns     []Turn           `json:"turns"`
	Final     envs.Observation `json:"final"` // after the last action
	Stop      StopReason       `json:"stop"`
	Err       string           `json:"err,omitempty"` // only with StopFailed
	Attempts  int              `json:"attempts"`      // how often it was run; 0: never started
	EnvReturn float64          `json:"env_return"`    // sum of the environment's rewards
	Score     float64          `json:"score"`         // the environment's last score
	Success   bool             `json:"success"`

	// RowsWithTips are the rows as they were sampled, RowsWithoutTips the same
	// without tips; equal if no tip was shown. There are none if the episode was
	// played on messages. Splits counts the cuts of RowsWithTips, SplitReasons
	// those of each reason.
	RowsWithTips    []Row               `json:"rows_with_tips"`
	RowsWithoutTips []Row               `json:"rows_without_tips"`
	Splits          int                 `json:"splits"`
	SplitReasons    map[SplitReason]int `json:"split_reasons,omitempty"`
	// Unstable says why the template could not render incrementally; empty: it
	// could.
	Unstable string `json:"unstable,omitempty"`

	// What the policy wrote when it was asked for a tip; empty if it wrote
	// nothing. TipIDs are nil only if it was not asked.
	Tip         string           `json:"tip"`
	TipIDs      []int32          `json:"tip_ids"`
	TipLogprobs sampler.Logprobs `json:"tip_logprobs,omitempty"`
	TipVersion  int              `json:"tip_version"`

	Took time.Duration `json:"took"`
}

// newTrajectory copies what s says about the episode.
func newTrajectory(s EpisodeSpec) Trajectory {
	return Trajectory{
		Task: s.Task, Step: s.Step, Group: s.Group, Episode: s.Episode, Seed: s.Seed,
		Policy: s.Policy, Temperature: s.Temperature, Memory: s.Recall != nil,
	}
}

// Failed reports whether the episode was lost.
func (t *Trajectory) Failed() bool { return t.Stop == StopFailed }

// Rows are the rows with tips as sampled, or without.
func (t *Trajectory) Rows(tips bool) []Row {
	if tips {
		return t.RowsWithTips
	}
	return t.RowsWithoutTips
}

// text is all that the policy wrote.
func (t Turn) text() string {
	if t.Text != "" {
		return t.Text
	}
	return t.Action
}

// States lists the states visited, in order.
func (t *Trajectory) States() []string {
	states := make([]string, len(t.Turns))
	for i, turn := range t.Turns {
		states[i] = turn.Observation.State
	}
	return states
}

// session is the key that keeps an episode on one slot or replica.
func (t *Trajectory) session() string {
	return fmt.Sprintf("s%d-g%d-e%d", t.Step, t.Group, t.Episode)
}
