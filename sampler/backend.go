// Package sampler is the contract between the training loop and an inference server.
//
// Start with [Backend]. It serves one or more versions of the policy:
//
//  1. Capabilities probes the server. [Requirements.Check] compares the result with what the run needs.
//  2. Publish serves a new version of the LoRA adapter. A backend wrapped by [WithCanary] also verifies that the
//     server's log-probs equal the trainer's.
//  3. Sample answers a [Request] (a prompt) with a [Completion] (token ids and their log-probs).
//  4. Retire stops serving an old version.
//
// The packages below this one:
//
//   - chat renders messages to token ids.
//   - prompt turns observations into messages. Tips enter the prompt there, in tipsSpan.
//   - rollout plays episodes and builds training rows. Off-policy rows lose their tips there, in messagesWithoutTips.
//   - llamacpp, vllm, sglang, ollama and openai are backends. fleet makes several replicas one backend.
//   - samplertest is the conformance suite of backends.
package sampler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/empo2/empo2/sampler/chat"
)

// Policy names one version of the weights as a backend serves them. Version 0 is the base model without an adapter.
type Policy struct {
	Version int    `json:"version"`
	Name    string `json:"name"` // for example "policy-v000012"; the server returns it with every answer
}

// Adapter is one version of the LoRA weights on disk. Its files never change.
type Adapter struct {
	Version int
	Dir     string // PEFT directory; empty: the trainer did not write one
	GGUF    string // GGUF adapter file; empty: the trainer did not write one
	// Score returns the trainer's log π(tokens[i+1] | tokens[:i+1]) under this adapter for every i: len(tokens)-1
	// values in nats. The canary compares them with the server's. Nil: the version is not verified (tests, backends
	// without log-probs).
	Score func(ctx context.Context, tokens []int32) ([]float32, error)
	// Verify compares the files with the checksums of their manifest. A backend calls it before a server loads the
	// files, at a restart too. Nil: the files are not verified (tests).
	Verify func() error
}

// Check calls Verify.
func (a Adapter) Check() error {
	if a.Verify == nil {
		return nil
	}
	return a.Verify()
}

// ScoreAfter returns the trainer's log-probs of ids after prompt: one finite value in nats per id.
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
	// FinishStop means that the policy wrote its end-of-turn token, which is the last id, or one of Request.Stop.
	FinishStop FinishReason = "stop"
	// FinishLength means that the completion reached MaxTokens or the context length.
	FinishLength FinishReason = "length"
)

// Request asks for one completion.
type Request struct {
	Prompt      []int32 // token ids, control tokens included
	MaxTokens   int     // of the completion
	Temperature float64 // 0 is greedy
	TopP        float64 // nucleus sampling; 0 and 1: off
	TopK        int     // sampling from the K most likely tokens; 0: off
	// Stop are strings that end the completion. Text ends before the first of them. IDs and Logprobs are complete.
	Stop []string
	Seed uint64 // equal requests with equal seeds get equal completions
	// Messages are the same conversation as text, without control tokens. Servers that take no ids
	// (Capabilities.IDsIn is false) use them. The last message is the user's.
	Messages []chat.Message
	// Session is shared by all requests of one episode, so that a backend can send them to the slot or replica that
	// has their prefix in its cache.
	Session string
	// SessionEnd is closed after the last request of the session. The cache of an ended session may be replaced first.
	// Nil: the session may end with this request.
	SessionEnd <-chan struct{}
	// Written is called with the text of the completion so far, again and again until the completion is complete. If the
	// request is sent again, the text begins anew. A backend that cannot stream does not call it. Nil: nobody watches.
	Written func(text string)
}

// MaxAnswer bounds a server's answer with a completion of so many tokens, in bytes. A token needs a few hundred bytes
// with its log-prob and its text. Servers add what they like: their settings, the ids of the prompt.
func MaxAnswer(tokens int) int64 { return 1<<20 + 4<<10*int64(tokens) }

// Truncated reports whether TopP or TopK restrict sampling to a part of the vocabulary.
func (r Request) Truncated() bool { return r.TopP > 0 && r.TopP < 1 || r.TopK > 0 }

// NucleusP returns TopP as servers expect it, with 1 for off.
func (r Request) NucleusP() float64 {
	if r.TopP == 0 {
		return 1
	}
	return r.TopP
}

// CheckSampling returns an error if a sampling parameter is out of range, or if there are stop strings and the server
// does not support them.
func (r Request) CheckSampling(c Capabilities) error {
	switch {
	case math.IsNaN(r.Temperature) || math.IsInf(r.Temperature, 0) || r.Temperature < 0:
		return fmt.Errorf("temperature %v: it must be finite and not negative", r.Temperature)
	case math.IsNaN(r.TopP) || r.TopP < 0 || r.TopP > 1:
		return fmt.Errorf("top_p %v: it must be between 0 and 1", r.TopP)
	case r.TopK < 0:
		return fmt.Errorf("top_k %d: it must not be negative", r.TopK)
	case slices.Contains(r.Stop, ""):
		return errors.New("a stop string is empty")
	case len(r.Stop) > 0 && !c.StopStrings:
		return fmt.Errorf("%w: stop strings\n  hint: %s", ErrCapability, c.Hints["stop_strings"])
	}
	return nil
}

// Completion is what the policy wrote.
type Completion struct {
	// IDs are the sampled token ids, including the end-of-turn token if it was sampled. They are empty only if
	// Capabilities.IDsOut is false.
	IDs []int32
	// Logprobs are log π_old(id) in nats at temperature 1 over the whole vocabulary, for all values of Temperature,
	// TopP and TopK, one per id. NaN means that the server returned no such value. The token is then never used for
	// training.
	Logprobs []float32
	Text     string // the decoded ids, without the end-of-turn token
	Finish   FinishReason
	Policy   Policy // the version that answered, as named by the server
}

// Capabilities describe what a server can do as it was launched. A backend probes them and assumes nothing.
type Capabilities struct {
	Server   string `json:"server"`   // "llama-server", "vllm", …
	Version  string `json:"version"`  // of the server; empty: unknown
	IDsIn    bool   `json:"ids_in"`   // a prompt may be token ids
	IDsOut   bool   `json:"ids_out"`  // completions have token ids
	Logprobs bool   `json:"logprobs"` // completions have one log-prob per id
	// LogprobSpace is "raw" if log-probs are of the unscaled logits, "processed" if they are of the logits after
	// temperature, top-p and top-k, and empty if there are no log-probs.
	LogprobSpace string `json:"logprob_space"`
	// Adapters says how the server loads a new adapter: "process" (a server process per version), "runtime" (into the
	// running server), "create" (a new model per version) or "none".
	Adapters      string `json:"adapters"`
	AdapterFormat string `json:"adapter_format"` // "peft" or "gguf"
	MaxRank       int    `json:"max_rank"`       // 0: no limit known
	MaxResident   int    `json:"max_resident"`   // versions served at the same time; 0: no limit known
	ContextLength int    `json:"context_length"` // in tokens; 0: unknown
	Parallel      int    `json:"parallel"`       // requests served at the same time
	VocabSize     int    `json:"vocab_size"`     // 0: unknown
	Replicas      int    `json:"replicas"`       // servers behind the backend
	StopStrings   bool   `json:"stop_strings"`   // the server supports Request.Stop
	// Rounding says why the server's weights are not exactly the model's, for example "the served base is quantised:
	// Q4_1". Empty: they are, or the server does not say.
	Rounding string `json:"rounding,omitempty"`
	// Hints name the flags and versions of this server that solve a problem. The keys are the JSON names of
	// capabilities that are missing or too small, "tokenizer", and the keys of [MismatchCause].
	Hints map[string]string `json:"hints,omitempty"`
}

// A Backend samples from published versions of the policy. It is safe for concurrent use.
type Backend interface {
	// Capabilities probes the server.
	Capabilities(ctx context.Context) (Capabilities, error)
	// Sample returns a completion of version p or an error, never a completion of another version. It retries within
	// ctx if a retry is safe.
	Sample(ctx context.Context, p Policy, r Request) (Completion, error)
	// Publish serves a new version and returns its Policy once every replica serves it. A zero Adapter is version 0,
	// the base model. To publish a version again has no effect.
	Publish(ctx context.Context, a Adapter) (Policy, error)
	// Retire refuses new requests for p, waits for its running requests and then stops serving it.
	Retire(ctx context.Context, p Policy) error
	// Close stops everything that the backend started.
	Close() error
}

// ErrPolicyGone is wrapped by Sample if p is not published or was retired.
var ErrPolicyGone = errors.New("policy is not served")

// ErrContextFull is wrapped by Sample if the prompt does not fit the server's context. It ends the episode and is not
// a failure.
var ErrContextFull = errors.New("prompt does not fit the context")
