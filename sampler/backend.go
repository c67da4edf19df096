// Package sampler is the contract between the loop and an inference server.
//
// A [Backend] serves one or several versions of the policy and samples from
// them. Around it stand what a run requires of a server ([Requirements]), the
// check that a server computes what the trainer does ([WithCanary]) and the
// derivation of seeds. The packages below are the conversation with a model
// (chat), what a prompt says (prompt), episodes and their rows (rollout) and
// the backends.
package sampler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/empo2/empo2/sampler/chat"
)

// Policy names one version of the weights as a backend serves them.
// Version 0 is the base model without an adapter.
type Policy struct {
	Version int    `json:"version"`
	Name    string `json:"name"` // for example "policy-v000012"; the server's answers carry it
}

// Adapter is one version of the LoRA weights on disk, immutable once written.
type Adapter struct {
	Version int
	Dir     string // PEFT directory; empty if the trainer wrote none
	GGUF    string // GGUF adapter file; empty if the trainer wrote none
	// Score returns log π(tokens[i+1] | tokens[:i+1]) for every i under this
	// adapter, as the trainer computes it: len(tokens)-1 values in nats. The
	// canary compares them with what the server says. Nil skips the canary
	// (tests, backends without log-probs).
	Score func(ctx context.Context, tokens []int32) ([]float32, error)
}

// ScoreAfter is what Score says of ids after prompt, one finite value per id.
func (a Adapter) ScoreAfter(ctx context.Context, prompt, ids []int32) ([]float32, error) {
	tokens := slices.Concat(prompt, ids)
	scores, err := a.Score(ctx, tokens)
	if err != nil {
		return nil, fmt.Errorf("score with the trainer: %w", err)
	}
	if len(scores) != len(tokens)-1 {
		return nil, fmt.Errorf("score with the trainer: %d values for %d tokens", len(scores), len(tokens))
	}
	scores = scores[len(scores)-len(ids):]
	for _, l := range scores {
		if !isFinite(l) {
			return nil, fmt.Errorf("score with the trainer: log-prob %v", l)
		}
	}
	return scores, nil
}

// FinishReason says why a completion ended.
type FinishReason string

const (
	// FinishStop: the policy wrote its end-of-turn token, which is the last id,
	// or one of Request.Stop.
	FinishStop FinishReason = "stop"
	// FinishLength: MaxTokens or the context length was reached.
	FinishLength FinishReason = "length"
)

// Request asks for one completion.
type Request struct {
	Prompt      []int32 // token ids, control tokens included
	MaxTokens   int
	Temperature float64 // 0 is greedy
	TopP        float64 // nucleus sampling; 0 and 1: off
	TopK        int     // sampling from the most likely tokens; 0: off
	// Stop are strings that end the reply: Text ends before the first of them,
	// IDs and Logprobs are as they were sampled.
	Stop []string
	Seed uint64
	// Messages are the same conversation as text, without control tokens, for
	// servers that take no ids (Capabilities.IDsIn is false). The last one is
	// the user's.
	Messages []chat.Message
	// Session is sticky: requests of one trajectory share it, so that a
	// backend can send them to the slot or replica that holds their prefix.
	Session string
}

// Truncated says whether tokens are drawn from a part of the vocabulary only.
func (r Request) Truncated() bool { return r.TopP > 0 && r.TopP < 1 || r.TopK > 0 }

// NucleusP is TopP with 1 for off, as servers want it.
func (r Request) NucleusP() float64 {
	if r.TopP == 0 {
		return 1
	}
	return r.TopP
}

// CheckSampling refuses parameters that no server can follow, and stop strings
// if the server has none.
func (r Request) CheckSampling(c Capabilities) error {
	switch {
	case math.IsNaN(r.Temperature) || math.IsInf(r.Temperature, 0) || r.Temperature < 0:
		return fmt.Errorf("temperature %v", r.Temperature)
	case math.IsNaN(r.TopP) || r.TopP < 0 || r.TopP > 1:
		return fmt.Errorf("top_p %v: it must be between 0 and 1", r.TopP)
	case r.TopK < 0:
		return fmt.Errorf("top_k %d: it must not be negative", r.TopK)
	case slices.Contains(r.Stop, ""):
		return errors.New("an empty stop string")
	case len(r.Stop) > 0 && !c.StopStrings:
		return fmt.Errorf("%w: stop strings\n  hint: %s", ErrCapability, c.Hints["stop_strings"])
	}
	return nil
}

// Completion is what the policy wrote.
type Completion struct {
	// IDs are the sampled ids, the end-of-turn token included if it was sampled.
	// They are empty only where Capabilities.IDsOut is false.
	IDs []int32
	// Logprobs are log π_old(id) in nats at temperature 1 over the whole
	// vocabulary, whatever Temperature, TopP and TopK are, one per id. Where the
	// server gives no such value it is NaN: such a token is never trained.
	Logprobs []float32
	Text     string // decoded, without the end-of-turn token
	Finish   FinishReason
	Policy   Policy // the version that answered, as the server itself says
}

// Capabilities says what a server, as launched, can do. They are probed,
// never assumed.
type Capabilities struct {
	Server   string `json:"server"`  // "llama-server", "vllm", …
	Version  string `json:"version"` // as far as it can be known
	IDsIn    bool   `json:"ids_in"`
	IDsOut   bool   `json:"ids_out"`
	Logprobs bool   `json:"logprobs"` // aligned with the ids
	// LogprobSpace is "raw" (of the logits, whatever the request's temperature,
	// top-p and top-k), "processed" (after them), or empty if there are no
	// log-probs.
	LogprobSpace  string `json:"logprob_space"`
	Adapters      string `json:"adapters"` // "process" (one per version), "runtime", "create", "none"
	AdapterFormat string `json:"adapter_format"`
	MaxRank       int    `json:"max_rank"`     // 0: no limit known
	MaxResident   int    `json:"max_resident"` // policies served at once; 0: no limit known
	ContextLength int    `json:"context_length"`
	Parallel      int    `json:"parallel"`   // requests served at once
	VocabSize     int    `json:"vocab_size"` // 0: unknown
	Replicas      int    `json:"replicas"`   // servers behind the backend
	StopStrings   bool   `json:"stop_strings"`
	// Hints are remedies that name this server's flags and versions: by the
	// JSON name of a capability that is missing or too small, and by the keys of
	// [MismatchCause].
	Hints map[string]string `json:"hints,omitempty"`
}

// A Backend samples from published policies. It is safe for concurrent use.
type Backend interface {
	Capabilities(ctx context.Context) (Capabilities, error)
	// Sample answers with the policy asked for or with an error, never with
	// another version. It retries what is safe to retry within ctx.
	Sample(ctx context.Context, p Policy, r Request) (Completion, error)
	// Publish makes a new version usable and returns its Policy. It returns
	// only when the weights are served everywhere. Publishing version 0 (a
	// zero Adapter) serves the base model. It is idempotent per version.
	Publish(ctx context.Context, a Adapter) (Policy, error)
	// Retire stops serving p after its last request has ended.
	Retire(ctx context.Context, p Policy) error
	// Close stops what the backend started.
	Close() error
}

// ErrPolicyGone is wrapped by Sample when p is not (or no longer) served.
var ErrPolicyGone = errors.New("policy is not served")

// ErrContextFull is wrapped by Sample when the prompt leaves no room in the
// server's context. The episode ends there; nothing has failed.
var ErrContextFull = errors.New("prompt does not fit the context")
