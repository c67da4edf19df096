package llamacpp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// Sample samples from the version p. The server computes log-probs from the raw
// logits, so they do not depend on the temperature of the request.
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
	if err := r.CheckIDs(b.caps); err != nil {
		return c, err
	}
	tried := map[*admission.Place]bool{}
	err = v.retry(ctx, func(ctx context.Context) (used *engine, err error) {
		c, used, err = v.send(ctx, r, tried)
		return used, err
	})
	return c, err
}

// sent is a completion, and the process that it was asked for.
type sent struct {
	completion sampler.Completion
	from       *engine
}

// send sends a request to the least busy replica, or to that with the prefix of its
// session. If it is late there, another one gets it too. A replica where it is lost is
// added to tried and chosen last.
func (v *version) send(ctx context.Context, r sampler.Request, tried map[*admission.Place]bool) (
	sampler.Completion, *engine, error) {
	request := admission.Request{Session: r.Session, Avoid: tried, Gone: v.gone, GoneErr: sampler.ErrPolicyGone}
	place, err := v.queue.Acquire(ctx, request)
	if err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.failed != nil {
			err = v.failed
		}
		return sampler.Completion{}, nil, err
	}
	hedge := admission.Hedge[sent]{
		Queue: v.queue, Request: request, Tokens: r.MaxTokens,
		Attempt: func(ctx context.Context, place *admission.Place, again bool) (sent, error) {
			return v.attempt(ctx, place, r, again)
		},
		Late: func(from, to *admission.Place, after time.Duration) {
			v.b.counters.add(Stats{Late: 1})
			v.log.Info().Int("replica", from.Index).Int("to", to.Index).Stringer("after", after).
				Msg("a late request is sent to another replica too")
		},
	}
	hedge.Rescued = func() { v.b.counters.add(Stats{Rescued: 1}) }
	got, place, err := hedge.Run(ctx, place)
	if errors.Is(err, errLost) {
		tried[place] = true
	}
	return got.completion, got.from, err
}

// errEnded means that a replica's process has ended since the replica was chosen.
var errEnded = fmt.Errorf("%w: its process has ended", errLost)

// attempt sends a request to a replica once. again is true for the second replica of a
// late request, whose text is not streamed, since the first one may still stream its.
func (v *version) attempt(ctx context.Context, place *admission.Place, r sampler.Request, again bool) (sent, error) {
	now := v.replicas[place.Index].current()
	if now == nil || !now.runs() {
		return sent{}, errEnded
	}
	if again {
		r.Written = nil
	}
	begun := time.Now()
	c, err := v.complete(ctx, now, r)
	if err == nil {
		place.Answered(len(c.IDs), time.Since(begun))
	}
	return sent{c, now}, err
}

// completionRequest is the body of a /completion. It sets every parameter, because the
// server's defaults are for chatting.
type completionRequest struct {
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

// MaxAnswer implements [jsonhttp.Bounded].
func (q completionRequest) MaxAnswer() int64 { return sampler.MaxAnswer(q.NPredict) }

type scale struct {
	ID    int     `json:"id"`
	Scale float64 `json:"scale"`
}

// answer has the fields of the server's answer that are used.
type answer struct {
	Content   *string         `json:"content"`
	Tokens    []int32         `json:"tokens"`
	Model     string          `json:"model"`
	StopType  string          `json:"stop_type"`
	Evaluated int             `json:"tokens_evaluated"`
	Predicted int             `json:"tokens_predicted"`
	Entries   []entry         `json:"completion_probabilities"`
	Cached    int64           `json:"timings/cache_n"`
	Processed int64           `json:"timings/prompt_n"`
	Error     json.RawMessage `json:"error"` // with status 200
}

// answerFields are the fields that the server sends. It would also send prompt and
// settings.
var answerFields = []string{"content", "tokens", "model", "stop_type", "tokens_evaluated", "tokens_predicted",
	"completion_probabilities", "timings/cache_n", "timings/prompt_n"}

// present reports whether a JSON value is set and not null.
func present(value json.RawMessage) bool {
	return len(value) > 0 && !bytes.Equal(value, []byte("null"))
}

func (v *version) newRequest(r sampler.Request, slot int) completionRequest {
	q := completionRequest{
		Prompt: r.Prompt, NPredict: r.MaxTokens, Temperature: r.Temperature, TopK: r.TopK, TopP: r.NucleusP(),
		RepeatPenalty: 1, Samplers: samplers(r), Stop: r.Stop, Seed: seed(r.Seed), NProbs: 1, ReturnTokens: true,
		CachePrompt: !v.b.cfg.NoPromptCache, IDSlot: slot, ResponseFields: answerFields,
	}
	if v.adapter != "" {
		q.Lora = []scale{{0, 1}}
	}
	return q
}

// samplers returns the server's samplers in the order of other servers and of
// Hugging Face: temperature, top-k, top-p.
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

// seed folds a seed into the server's 32 bits. All ones would mean a random seed.
func seed(s uint64) uint32 {
	folded := uint32(s) ^ uint32(s>>32)
	if folded == math.MaxUint32 {
		return 0
	}
	return folded
}

// complete sends a request to one process once.
func (v *version) complete(ctx context.Context, rep *engine, r sampler.Request) (sampler.Completion, error) {
	slot, err := rep.slots.Acquire(ctx, admission.Request{
		Session: r.Session, Gain: rep.cache.gain(r.Prompt), Gone: rep.exited(), GoneErr: errLost,
	})
	if err != nil {
		return sampler.Completion{}, err
	}
	defer slot.Release()
	rep.cache[slot.Index] = cached{} // unknown if the request fails
	a, err := v.post(ctx, rep, v.newRequest(r, slot.Index), r.Written)
	if err != nil {
		return sampler.Completion{}, fmt.Errorf("llama-server at %s: %w", rep.client.web.URL(), err)
	}
	rep.cache[slot.Index] = cached{slices.Concat(r.Prompt, a.Tokens), r.SessionEnd}
	c, err := v.read(r, a)
	if err != nil {
		return c, fmt.Errorf("llama-server at %s: bad answer: %w", rep.client.web.URL(), err)
	}
	rep.answered.Add(1)
	v.b.counters.count(a, c)
	return c, nil
}

// post sends a request and decodes the answer. If written is not nil, the answer is
// streamed to it.
func (v *version) post(
	ctx context.Context, rep *engine, q completionRequest, written func(string),
) (a answer, err error) {
	err = v.withDeadline(ctx, rep, func(ctx context.Context) (err error) {
		if written != nil {
			a, err = rep.client.stream(ctx, q, written)
			if err != nil || a.Predicted == len(a.Tokens) {
				return err
			}
		}
		a = answer{}
		return rep.client.call(ctx, "/completion", q, &a)
	})
	if jsonhttp.ContextFull(err) {
		return a, fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
	}
	return a, err
}

var errSlow = errors.New("the request took too long")

// withDeadline calls a process with a deadline. A process hangs if it answers no
// request at all within a deadline. It is then killed, and the next process gets
// the request.
func (v *version) withDeadline(ctx context.Context, rep *engine, call func(context.Context) error) error {
	before, limit := rep.answered.Load(), v.b.cfg.RequestTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	err := call(ctx)
	switch {
	case !errors.Is(err, errSlow):
		return err
	case rep.answered.Load() != before:
		return fmt.Errorf("%w: no answer within %v, although the server answered other requests\n"+
			"  hint: raise sampler.timeout_seconds or lower sampler.concurrency", err, limit)
	}
	v.log.Warn().Stringer("limit", limit).Msg("llama-server hangs and is killed")
	rep.kill()
	select { // else the request is sent to the dying process again
	case <-rep.exited():
	case <-v.b.alive.Done():
	}
	return fmt.Errorf("%w: no answer within %v", errLost, limit)
}

// read checks an answer and converts it into a completion.
func (v *version) read(r sampler.Request, a answer) (sampler.Completion, error) {
	c := sampler.Completion{IDs: a.Tokens, Policy: v.policy}
	n := len(a.Tokens)
	switch {
	case present(a.Error):
		return c, fmt.Errorf("the answer is an error: %s", jsonhttp.Shorten(string(a.Error)))
	case a.Model != v.policy.Name:
		return c, fmt.Errorf("%q answers in place of %s", a.Model, v.policy.Name)
	case a.Evaluated != len(r.Prompt):
		return c, fmt.Errorf("%d prompt tokens were read, %d were sent", a.Evaluated, len(r.Prompt))
	case n == 0 || n > r.MaxTokens:
		return c, fmt.Errorf("%d tokens, %d were asked for", n, r.MaxTokens)
	case a.Content == nil:
		return c, errors.New("it has no content")
	case a.StopType == "eos" && slices.Contains(a.Tokens[:n-1], a.Tokens[n-1]):
		return c, fmt.Errorf("it goes on after the end token %d", a.Tokens[n-1])
	case a.StopType == "eos":
		c.Finish = sampler.FinishStop
	case a.StopType == "word" && len(r.Stop) > 0:
		c.Finish = sampler.FinishStop
	case a.StopType == "limit" && n == r.MaxTokens:
		c.Finish = sampler.FinishLength
	default:
		return c, fmt.Errorf("stopped by %q after %d of %d tokens", a.StopType, n, r.MaxTokens)
	}
	c.Text = *a.Content
	if err := v.b.caps.CheckVocabulary(a.Tokens); err != nil {
		return c, err
	}
	var err error
	if a.StopType == "word" && len(a.Entries) == 0 {
		c.Logprobs = sampler.UnknownLogprobs(n) // the server omits the tokens of the stop string
		return c, nil
	}
	c.Logprobs, err = align(a.Tokens, a.Entries)
	return c, err
}
