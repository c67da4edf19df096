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

// Recalled is the memory's answer for a state.
type Recalled struct {
	Tips    []prompt.Tip // best first; the memory decides how many
	Similar int          // number of similar states or tips in memory; the intrinsic reward is 1/(1+Similar)
}

// Query is what the memory is asked about: a state of a task's scope. Seed is for the random choices of a memory that
// explores.
type Query struct {
	Scope string
	State string
	Seed  uint64
}

// RecallFunc asks the memory for tips on a state. It must be safe for concurrent use.
type RecallFunc func(ctx context.Context, q Query) (Recalled, error)

// EpisodeSpec describes an episode before it starts. The same EpisodeSpec with the same memory uses the same seeds.
type EpisodeSpec struct {
	Task    envs.Task
	Step    int64 // training step
	Group   int   // within the step
	Episode int   // within the group
	Seed    uint64
	Policy  sampler.Policy // the version to sample from
	// Newest returns the version that the next turn is sampled from, so that an episode moves on to a version that is
	// published while it runs. Policy is then the one of the first turn. Nil: all turns are sampled from Policy.
	Newest func() sampler.Policy

	Temperature float64  // 0 is greedy
	TopP        float64  // nucleus sampling; 0 and 1: off
	TopK        int      // sampling from the K most likely tokens; 0: off
	Stop        []string // strings that end a reply
	MaxTurns    int      // limit of turns; 0: until the environment ends the episode
	MaxTokens   int      // limit of tokens of a reply
	MaxPrompt   int      // limit of tokens of a prompt; 0: only the server limits it

	Recall RecallFunc // nil: no memory
	// Choose chooses among the actions of Candidates replies. Nil: the policy's one reply counts.
	Choose     ChooseFunc
	Candidates int
	Keep       Keep // empty: KeepAll
	// Watch is called with the turns so far and the next one before the policy replies, and then with the text of the
	// reply so far, if the backend streams. An episode that is retried begins anew. Nil: nobody watches.
	Watch func(before []Turn, next Turn, written string)
}

// StopReason says why an episode ended.
type StopReason string

const (
	// StopTerminated means that the environment ended the episode.
	StopTerminated StopReason = "terminated"
	// StopTruncated means that a limit of the environment ended the episode.
	StopTruncated StopReason = "truncated"
	// StopMaxTurns means that the episode had MaxTurns turns. The value is the one that existing runs have stored.
	StopMaxTurns StopReason = "max_steps"
	// StopContextFull means that the next prompt was too long. It was not sampled from. The turns before it count.
	StopContextFull StopReason = "context_full"
	// StopFailed means that the server, the environment or the memory failed, or that the run was cancelled. Err has
	// the reason. The episode is never used for training.
	StopFailed StopReason = "failed"
	// StopCancelled means that the step did not wait for the episode any more. Otherwise it is like StopFailed. An
	// episode does not end so by itself.
	StopCancelled StopReason = "cancelled"
)

// Turn is one observation → action → reward.
type Turn struct {
	Observation envs.Observation `json:"observation"`
	// Tips are the tips that this turn added to the prompt.
	Tips []prompt.Tip `json:"tips,omitempty"`
	// Dropped are the ids of tips that the memory returned and the prompt does not show, because it shows them already or
	// has enough.
	Dropped []int64 `json:"dropped,omitempty"`
	// Prompt are the messages that this turn added to the conversation. The first turn has the system message too.
	Prompt []chat.Message `json:"prompt"`
	// Similar is the memory's count ([Recalled]); -1: the memory was not asked.
	Similar int `json:"similar"`
	// Candidates are the actions among which the memory has chosen. Nil: the memory does not choose.
	Candidates []Candidate      `json:"candidates,omitempty"`
	PromptLen  int              `json:"prompt_len"` // in tokens; 0 without a chat template
	IDs        []int32          `json:"ids"`        // sampled ids
	Logprobs   sampler.Logprobs `json:"logprobs"`   // in nats, one per id, as returned by the server
	// Action is the policy's reply without a thought and without surrounding white space. It is empty if a thought is
	// unfinished.
	Action string `json:"action"`
	// Taken is the action that the environment got, if it is not equal to Action.
	Taken string `json:"taken,omitempty"`
	// Text is the complete reply; empty: it is equal to Action.
	Text string `json:"text,omitempty"`
	// Opened is the mark of a thought that stands in the prompt, before a reply that was cut off. Empty: none.
	Opened  string               `json:"opened,omitempty"`
	Finish  sampler.FinishReason `json:"finish"`
	Version int                  `json:"version"`           // of the policy that answered
	Invalid bool                 `json:"invalid,omitempty"` // the environment refused the action
	Reward  float64              `json:"reward"`            // from the environment
	Score   float64              `json:"score"`             // from the environment
	Took    time.Duration        `json:"took"`              // duration of the turn
	Sample  time.Duration        `json:"sample"`            // part of Took: waiting for the policy
}

// Trajectory is a finished or failed episode. It contains only values and does not change in a round trip through JSON.
type Trajectory struct {
	Task        envs.Task      `json:"task"`
	Step        int64          `json:"step"`
	Group       int            `json:"group"`
	Episode     int            `json:"episode"`
	Seed        uint64         `json:"seed"`
	Policy      sampler.Policy `json:"policy"` // of the first turn; each turn has its own version
	Temperature float64        `json:"temperature"`
	Memory      bool           `json:"memory"` // the spec had a RecallFunc

	Turns     []Turn           `json:"turns"`
	Final     envs.Observation `json:"final"` // after the last action
	Stop      StopReason       `json:"stop"`
	Err       string           `json:"err,omitempty"` // only with StopFailed and StopCancelled
	Attempts  int              `json:"attempts"`      // number of runs, retries included; 0: never started
	EnvReturn float64          `json:"env_return"`    // sum of the environment's rewards
	Score     float64          `json:"score"`         // the environment's last score
	Success   bool             `json:"success"`       // the environment reported success

	// RowsWithTips are the rows as they were sampled. RowsWithoutTips have the same sampled ids after prompts without
	// tips, for off-policy training. Both are equal if no tip was shown, and then may share their memory: rows must not be
	// modified. Both are empty without a chat template.
	RowsWithTips    []Row `json:"rows_with_tips"`
	RowsWithoutTips []Row `json:"rows_without_tips"`
	// Splits counts the splits of RowsWithTips: there are Splits+1 rows. SplitReasons counts them by reason.
	Splits       int                 `json:"splits"`
	SplitReasons map[SplitReason]int `json:"split_reasons,omitempty"`
	// Unstable says why the chat template cannot render incrementally ([chat.Template.Unstable]); empty: it can.
	Unstable string `json:"unstable,omitempty"`

	// The result of [Driver.Reflect]. Tip is empty if the policy wrote none. TipIDs are nil only if it was not asked.
	Tip         string           `json:"tip"`
	TipIDs      []int32          `json:"tip_ids"`
	TipLogprobs sampler.Logprobs `json:"tip_logprobs,omitempty"` // in nats, one per id
	TipVersion  int              `json:"tip_version"`            // of the policy that wrote the tip
	// TipCut says that the tip ends early: the reply was cut at its limit of tokens, or the tip at its limit of
	// characters.
	TipCut bool `json:"tip_cut,omitempty"`
	// Slim says that the texts of prompts and replies and all token ids were dropped because the episode is old.
	Slim bool `json:"slim,omitempty"`

	Took time.Duration `json:"took"`
}

// newTrajectory copies the fields of s.
func newTrajectory(s EpisodeSpec) Trajectory {
	return Trajectory{
		Task: s.Task, Step: s.Step, Group: s.Group, Episode: s.Episode, Seed: s.Seed,
		Policy: s.policy(), Temperature: s.Temperature, Memory: s.Recall != nil,
	}
}

// policy returns the version to sample from now.
func (s EpisodeSpec) policy() sampler.Policy {
	if s.Newest == nil {
		return s.Policy
	}
	return s.Newest()
}

// Failed reports whether the episode failed or was cancelled, so that it has no return.
func (t *Trajectory) Failed() bool { return t.Stop == StopFailed || t.Stop == StopCancelled }

// Rows returns RowsWithTips or RowsWithoutTips.
func (t *Trajectory) Rows(tips bool) []Row {
	if tips {
		return t.RowsWithTips
	}
	return t.RowsWithoutTips
}

// text returns the complete reply of the policy.
func (t Turn) text() string {
	if t.Text != "" {
		return t.Text
	}
	return t.Action
}

// TakenAction returns the action that the environment got.
func (t Turn) TakenAction() string {
	if t.Taken != "" {
		return t.Taken
	}
	return t.Action
}

// States returns the states of all turns in order.
func (t *Trajectory) States() []string {
	states := make([]string, len(t.Turns))
	for i, turn := range t.Turns {
		states[i] = turn.Observation.State
	}
	return states
}

// session returns the key that keeps an episode on one slot or replica.
func (t *Trajectory) session() string {
	return fmt.Sprintf("s%d-g%d-e%d", t.Step, t.Group, t.Episode)
}
