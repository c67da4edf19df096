// Package envs defines the environments that a policy acts in.
//
// A [Family] is one environment (vault, scienceworld, webshop, …). It lists
// tasks and opens single-use episodes. Everything that depends on the world —
// texts, rewards, scores, when an episode ends — lives behind these two
// interfaces; the training loop knows nothing of any particular environment.
package envs

import "context"

// Task names one problem of a family, completely: opening the same Task twice
// gives two episodes that answer the same actions in the same way.
type Task struct {
	// ID is unique within the family and stable across runs, for example
	// "house-701/variation-2".
	ID string `json:"id"`
	// Scope groups the tasks that share one list of tips; the reference keeps
	// one list per task variation (EMPO², memory). Never empty.
	Scope string `json:"scope"`
	// Seed feeds whatever the environment draws at random.
	Seed uint64 `json:"seed"`
	// Instruction is the task text u: what the policy is told once, before
	// the first observation. May be empty.
	Instruction string `json:"instruction"`
	// Reflection asks for one tip after the episode has ended. Empty means
	// that the prompt's own default is used.
	Reflection string `json:"reflection,omitempty"`
}

// Observation is what the policy sees before it acts.
type Observation struct {
	// Feedback says what the last action did. Empty at the first step.
	Feedback string `json:"feedback,omitempty"`
	// State describes the situation now. It is the text that the memory is
	// searched with. Empty after the last step.
	State string `json:"state,omitempty"`
}

// Step is the answer to one action.
type Step struct {
	Observation Observation `json:"observation"`
	// Reward is r_t^env of this action; the rewards of an episode sum to its
	// environment return.
	Reward float64 `json:"reward"`
	// Score is the environment's own score so far, in its own range (vault:
	// 0..100, ScienceWorld: -100..100). It is reported, never trained on.
	Score float64 `json:"score"`
	// Success says that the task is solved.
	Success bool `json:"success,omitempty"`
	// Terminated: the environment ended the episode. Truncated: a limit did.
	Terminated bool `json:"terminated,omitempty"`
	Truncated  bool `json:"truncated,omitempty"`
}

// Done reports whether the episode is over.
func (s Step) Done() bool { return s.Terminated || s.Truncated }

// Split names a set of tasks.
type Split string

// The splits every family knows. Train and Eval may overlap where the
// environment evaluates on its training tasks (vault does, as GRPO and EMPO²
// are compared on the tasks that they explored); Test never overlaps Train.
const (
	Train Split = "train"
	Eval  Split = "eval"
	Test  Split = "test"
)

// A Family opens episodes of one environment. It is safe for concurrent use.
type Family interface {
	// Name is the environment's name as it stands in config.toml.
	Name() string
	// Tasks lists a split in a stable order. An unknown split is an error.
	Tasks(split Split) ([]Task, error)
	// Open prepares an episode of t. The episode is single-use.
	Open(ctx context.Context, t Task) (Episode, error)
	// Close releases everything the family holds. No episode may be open.
	Close() error
}

// A Recorded family has scores that rest on more than its configuration, such
// as the version of a simulator or the checksums of data. Record says on what;
// it belongs to every score, is encoded as JSON, and does not change while the
// family is open.
type Recorded interface{ Record() any }

// An Episode is driven by one goroutine: Reset once, then Step until a Step is
// Done, then Close. A malformed action is the environment's business (its own
// answer, low reward) and never an error; an error means that the environment
// itself failed, and the episode is lost. [Guard] holds callers to the order.
type Episode interface {
	Reset(ctx context.Context) (Observation, error)
	Step(ctx context.Context, action string) (Step, error)
	// Close is called exactly once, also after an error.
	Close() error
}
