package llamacpp

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// Sample answers with the version asked for. The log-probs are those at
// temperature 1 whatever the temperature of the request, as the server gives
// them from the raw logits.
func (b *Backend) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	c, err := b.sample(ctx, p, r)
	if err != nil {
		return sampler.Completion{}, fmt.Errorf("sample %s: %w", p.Name, err)
	}
	return c, nil
}

func (b *Backend) sample(ctx context.Context, p sampler.Policy, r sampler.Request) (c sampler.Completion, err error) {
	b.mu.Lock()
	v, closed := b.versions[p.Version], b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return c, errClosed
	case v == nil, v.policy != p, !v.gate.Enter():
		return c, sampler.ErrPolicyGone
	}
	defer v.gate.Leave()
	if err := b.checkRequest(r); err != nil {
		return c, err
	}
	err = v.do(ctx, func(ctx context.Context, rep *replica) (err error) {
		c, err = v.complete(ctx, rep, r)
		return err
	})
	return c, err
}

// checkRequest refuses requests that the server would silently change: it ends
// a completion at the end of the context.
func (b *Backend) checkRequest(r sampler.Request) error {
	switch {
	case len(r.Prompt) == 0 || r.MaxTokens < 1:
		return fmt.Errorf("%d prompt tokens and %d to sample: both must be positive", len(r.Prompt), r.MaxTokens)
	case len(r.Prompt)+r.MaxTokens > b.caps.ContextLength:
		return fmt.Errorf("%w: %d tokens and %d to sample, %d in all",
			sampler.ErrContextFull, len(r.Prompt), r.MaxTokens, b.caps.ContextLength)
	}
	if err := r.CheckSampling(b.caps); err != nil {
		return err
	}
	return b.inVocabulary(r.Prompt)
}

func (b *Backend) inVocabulary(ids []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= b.caps.VocabSize {
			return fmt.Errorf("id %d at %d is outside the vocabulary of %d", id, i, b.caps.VocabSize)
		}
	}
	return nil
}

// question is the body of a /completion. It sets every parameter, because the
// server's defaults are made for chatting.
type question struct {
	Prompt         []int32  `json:"prompt"`
	NPredict       int      `json:"n_predict"`
	Temperature    float64  `json:"temperature"`
	TopK           int      `json:"top_k"`
	TopP           float64  `json:"top_p"`
	MinP           float64  `json:"min_p"`
	RepeatPenalty  float64  `json:"repeat_penalty"`
	Samplers       []string `json:"samplers"`
	Stop           []string `json:"stop,omitempty"`
	Seed           uint32   `json:"seed"`
	NProbs         int      `json:"n_probs"`
	ReturnTokens   bool     `json:"return_tokens"`
	CachePrompt    bool     `json:"cache_prompt"`
	Stream         bool     `json:"stream"`
	IDSlot         int      `json:"id_slot"`
	Lora           []scale  `json:"lora,omitempty"`
	ResponseFields []string `json:"response_fields"`
}

type scale struct {
	ID    int     `json:"id"`
	Scale float64 `json:"scale"`
}

// answer is the part of the server's answer that is read.
type answer struct {
	Content   string  `json:"content"`
	Tokens    []int32 `json:"tokens"`
	Model     string  `json:"model"`
	StopType  string  `json:"stop_type"`
	Evaluated int     `json:"tokens_evaluated"`
	Entries   []entry `json:"completion_probabilities"`
	Cached    int64   `json:"timings/cache_n"`
	Processed int64   `json:"timings/prompt_n"`
}

// answerFields name the fields of answer, so that the server does not repeat
// prompt and settings.
var answerFields = []string{"content", "tokens", "model", "stop_type", "tokens_evaluated",
	"completion_probabilities", "timings/cache_n", "timings/prompt_n"}

func (v *version) question(r sampler.Request, slot int) question {
	q := question{
		Prompt: r.Prompt, NPredict: r.MaxTokens, Temperature: r.Temperature, TopK: r.TopK, TopP: r.NucleusP(),
		RepeatPenalty: 1, Samplers: samplers(r), Stop: r.Stop, Seed: seed(r.Seed), NProbs: 1, ReturnTokens: true,
		CachePrompt: true,
		IDSlot:      slot, ResponseFields: answerFields,
	}
	if v.adapter != "" {
		q.Lora = []scale{{0, 1}}
	}
	return q
}

// samplers are the server's samplers in the order of other servers and of
// Hugging Face: top-k and top-p see the distribution after the temperature.
func samplers(r sampler.Request) []string {
	s := []string{"temperature"}
	if r.TopK > 0 {
		s = append(s, "top_k")
	}
	if r.TopP > 0 && r.TopP < 1 {
		s = append(s, "top_p")
	}
	return s
}

// seed folds a seed into the server's 32 bits; all ones would mean "any".
func seed(s uint64) uint32 {
	folded := uint32(s) ^ uint32(s>>32)
	if folded == math.MaxUint32 {
		return 0
	}
	return folded
}

// complete asks one process once.
func (v *version) complete(ctx context.Context, rep *replica, r sampler.Request) (sampler.Completion, error) {
	slot, err := rep.slots.Acquire(ctx, admission.Request{Session: r.Session, Gone: rep.exited(), GoneErr: errLost})
	if err != nil {
		return sampler.Completion{}, err
	}
	defer slot.Release()
	var a answer
	if err := v.ask(ctx, rep, v.question(r, slot.Index), &a); err != nil {
		return sampler.Completion{}, err
	}
	c, err := v.read(r, a)
	if err != nil {
		return c, fmt.Errorf("bad answer: %w", err)
	}
	rep.answered.Add(1)
	v.b.counters.count(a, c)
	return c, nil
}

// ask posts a question.
func (v *version) ask(ctx context.Context, rep *replica, q question, a *answer) error {
	err := v.limited(ctx, rep, func(ctx context.Context) error { return rep.client.call(ctx, "/completion", q, a) })
	var refused *jsonhttp.Error
	if errors.As(err, &refused) && refused.Type == "exceed_context_size_error" {
		return fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
	}
	return err
}

var errSlow = errors.New("the request took too long")

// limited calls with a deadline. A process that completed no request during a
// whole deadline hangs: it is killed, and the call goes to the next process.
func (v *version) limited(ctx context.Context, rep *replica, call func(context.Context) error) error {
	before, limit := rep.answered.Load(), v.b.cfg.RequestTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	err := call(ctx)
	switch {
	case !errors.Is(err, errSlow):
		return err
	case rep.answered.Load() != before:
		return fmt.Errorf("%w: no answer within %v, although others were answered\n"+
			"  hint: raise sampler.timeout_seconds or lower sampler.concurrency", err, limit)
	}
	v.log.Warn().Dur("limit", limit).Msg("llama-server answers nobody and is killed")
	rep.kill()
	return fmt.Errorf("%w: no answer within %v", errLost, limit)
}

// read checks an answer and turns it into a completion.
func (v *version) read(r sampler.Request, a answer) (sampler.Completion, error) {
	c := sampler.Completion{IDs: a.Tokens, Text: a.Content, Policy: v.policy}
	n := len(a.Tokens)
	switch {
	case a.Model != v.policy.Name:
		return c, fmt.Errorf("%q answers in place of %s", a.Model, v.policy.Name)
	case a.Evaluated != len(r.Prompt):
		return c, fmt.Errorf("%d prompt tokens were read, %d were sent", a.Evaluated, len(r.Prompt))
	case n == 0 || n > r.MaxTokens:
		return c, fmt.Errorf("%d tokens, %d were asked for", n, r.MaxTokens)
	case a.StopType == "eos":
		c.Finish = sampler.FinishStop
	case a.StopType == "word" && len(r.Stop) > 0:
		c.Finish = sampler.FinishStop
	case a.StopType == "limit" && n == r.MaxTokens:
		c.Finish = sampler.FinishLength
	default:
		return c, fmt.Errorf("stopped by %q after %d of %d tokens", a.StopType, n, r.MaxTokens)
	}
	if err := v.b.inVocabulary(a.Tokens); err != nil {
		return c, err
	}
	var err error
	if a.StopType == "word" && len(a.Entries) == 0 {
		c.Logprobs = gaps(n) // the server leaves out as many as the stop string has tokens
		return c, nil
	}
	c.Logprobs, err = align(a.Tokens, a.Entries)
	return c, err
}
