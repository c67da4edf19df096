// Package envs defines the environments that a policy acts in.
//
// A [Family] is one environment (vault, scienceworld, webshop, …). It lists
// tasks and opens an [Episode] for each attempt at one. Texts, rewards, scores
// and the end of an episode are decided behind these two interfaces, and the
// training loop does not depend on any particular environment.
//
// To write an environment, read this file and then example_test.go, which has a
// complete one. The sub-package envstest checks that it keeps the contract. An
// environment that runs in a server of its own is driven by remote, openenv, ors
// or agentgym.
package envs

import "context"

// A SettingError says that a value in the configuration of a family is wrong. Its text names the key and has a hint.
type SettingError struct{ Err error }

func (e *SettingError) Error() string { return e.Err.Error() }

// Unwrap returns the text's error.
func (e *SettingError) Unwrap() error { return e.Err }

// Task is one problem of a family. Two episodes of the same Task give the same
// answers to the same actions.
type Task struct {
	// ID is unique within the family and stable across runs, for example
	// "house-701/variation-2".
	ID string `json:"id"`
	// Scope groups the tasks that share one list of tips. The reference (EMPO²)
	// has one list per task variation. Never empty.
	Scope string `json:"scope"`
	// Seed is the seed of the environment's random choices.
	Seed uint64 `json:"seed"`
	// Instruction is the task text u. The policy reads it once, before the
	// first observation. It may be empty.
	Instruction string `json:"instruction"`
	// Reflection is the request for a tip after the episode. If it is empty,
	// the default of the prompt template is used.
	Reflection string `json:"reflection,omitempty"`
}

// Observation is what the policy sees before it acts.
type Observation struct {
	// Feedback is the result of the last action. Empty at the first turn.
	Feedback string `json:"feedback,omitempty"`
	// State describes the current situation. The memory recalls tips by this
	// text. Empty after the last turn.
	State string `json:"state,omitempty"`
}

// Step is the environment's answer to one action.
type Step struct {
	Observation Observation `json:"observation"`
	// Reward is r_t^env of this action. The sum over an episode is its
	// environment return.
	Reward float64 `json:"reward"`
	// Score is the environment's own score so far, in its own range (vault:
	// 0..100, ScienceWorld: -100..100). It is reported, but not used in training.
	Score float64 `json:"score"`
	// Invalid is true if the environment did not understand or did not permit the
	// action, as far as it says so. It is counted, and not used in training.
	Invalid bool `json:"invalid,omitempty"`
	// Success is true if the task is solved.
	Success bool `json:"success,omitempty"`
	// Terminated is true if the environment ended the episode, and Truncated
	// if a limit did.
	Terminated bool `json:"terminated,omitempty"`
	Truncated  bool `json:"truncated,omitempty"`
}

// Done reports whether the episode is over.
func (s Step) Done() bool { return s.Terminated || s.Truncated }

// Split names a set of tasks.
type Split string

// The splits of every family. Train and Eval may overlap: vault evaluates on its
// training tasks, because GRPO and EMPO² are compared on the tasks that they
// explored. Train and Test never overlap.
const (
	Train Split = "train"
	Eval  Split = "eval"
	Test  Split = "test"
)

// A Family opens episodes of one environment. It is safe for concurrent use.
type Family interface {
	// Name is the name of the environment in config.toml.
	Name() string
	// Tasks lists a split in a stable order. An unknown split is an error.
	Tasks(split Split) ([]Task, error)
	// Open opens an episode of t. An episode is used once.
	Open(ctx context.Context, t Task) (Episode, error)
	// Close releases everything the family holds. No episode may be open.
	Close() error
}

// A Recorded family has scores that depend on more than its configuration, for
// example on the version of a simulator or the checksums of data files. Record
// returns these facts. They are stored as JSON with every score, and do not
// change while the family is open.
type Recorded interface{ Record() any }

// An Episode is one attempt at a task. One goroutine calls Reset once, then Step
// until a Step is Done, then Close. [Guard] enforces this order.
//
// A malformed action is not an error: the environment answers it with feedback and
// a low reward. An error means that the environment itself failed. The episode is
// then lost.
type Episode interface {
	// Reset returns the first observation.
	Reset(ctx context.Context) (Observation, error)
	// Step performs an action.
	Step(ctx context.Context, action string) (Step, error)
	// Close is called exactly once, also after an error.
	Close() error
}
