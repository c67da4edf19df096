package ollama

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/ollama/ollama/api"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// Sample answers with the version asked for. With a codec the prompt's ids
// count, and the ids of the completion are the codec's; without one the
// messages count, and there are none.
func (b *Backend) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	c, err := b.sample(ctx, p, r)
	if err != nil {
		return sampler.Completion{}, fmt.Errorf("sample %s: %w", p.Name, err)
	}
	return c, nil
}

func (b *Backend) sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	v, err := b.enter(p)
	if err != nil {
		return sampler.Completion{}, err
	}
	defer b.leave(v)
	ctx, end := b.within(ctx)
	defer end()
	q, err := b.question(ctx, r)
	if err != nil {
		return sampler.Completion{}, err
	}
	a, err := b.ask(ctx, p, r, q)
	if err != nil {
		return sampler.Completion{}, err
	}
	return b.completion(ctx, p, q, a)
}

// enter counts a request in.
func (b *Backend) enter(p sampler.Policy) (*version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.versions[p.Version]
	switch {
	case b.closed:
		return nil, errClosed
	case v == nil, v.policy != p, v.retired:
		return nil, sampler.ErrPolicyGone
	}
	v.inFlight++
	return v, nil
}

func (b *Backend) leave(v *version) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v.inFlight--
	v.settle()
}

// question is what the server is asked: a text as it is, or messages for the
// model's own chat template.
type question struct {
	text     string
	messages []api.Message
	ids      int // of text; 0: not known
}

func (b *Backend) question(ctx context.Context, r sampler.Request) (question, error) {
	switch {
	case r.MaxTokens < 1:
		return question{}, fmt.Errorf("%d tokens to sample", r.MaxTokens)
	case math.IsNaN(r.Temperature) || math.IsInf(r.Temperature, 0) || r.Temperature < 0:
		return question{}, fmt.Errorf("temperature %v", r.Temperature)
	case b.spell == nil || len(r.Prompt) == 0:
		return messages(r.Messages)
	case len(r.Prompt)+r.MaxTokens > b.cfg.NumCtx:
		return question{}, fmt.Errorf("%w: %d tokens and %d to sample, %d in all",
			sampler.ErrContextFull, len(r.Prompt), r.MaxTokens, b.cfg.NumCtx)
	}
	text, same, err := b.spell.text(ctx, r.Prompt)
	if err != nil {
		return question{}, err
	}
	if !same {
		b.counters.update(func(s *Stats) { s.Rejoined++ })
	}
	return question{text: text, ids: len(r.Prompt)}, nil
}

func messages(given []chat.Message) (question, error) {
	if len(given) == 0 {
		return question{}, errors.New("no messages, and no tokenizer for ids")
	}
	var q question
	for _, m := range given {
		q.messages = append(q.messages, api.Message{Role: m.Role, Content: m.Text()})
	}
	return q, nil
}

// options leave nothing to the defaults of server and model, which are made
// for chatting, and are alike for all requests: another context or number of
// threads would reload the model.
func (b *Backend) options(r sampler.Request) map[string]any {
	o := map[string]any{
		"temperature": r.Temperature, "top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1,
		"repeat_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
		"seed": sampler.ShortSeed(r.Seed), "num_predict": r.MaxTokens, "num_ctx": b.cfg.NumCtx, "stop": []string{},
	}
	if b.cfg.Threads > 0 {
		o["num_thread"] = b.cfg.Threads
	}
	return o
}

// answer is what both calls have in common.
type answer struct {
	Model      string        `json:"model"`
	Response   string        `json:"response"` // of a text
	Message    api.Message   `json:"message"`  // of messages
	Done       bool          `json:"done"`
	DoneReason string        `json:"done_reason"`
	Prompt     int64         `json:"prompt_eval_count"`
	Sampled    int64         `json:"eval_count"`
	Logprobs   []api.Logprob `json:"logprobs"`
}

// ask waits for the model's turn and asks until there is an answer.
func (b *Backend) ask(ctx context.Context, p sampler.Policy, r sampler.Request, q question) (a answer, err error) {
	if err := b.turns.acquire(ctx, p.Name); err != nil {
		return a, fmt.Errorf("waiting for a turn: %w", err)
	}
	defer b.turns.release()
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.RequestTimeout, fmt.Errorf("no answer within %v", b.cfg.RequestTimeout))
	defer cancel()
	path, body := b.body(p, r, q)
	err = b.client.try(ctx, func() error {
		a = answer{}
		return b.client.call(ctx, "POST", path, body, &a)
	}, b.again("generate", p))
	switch {
	case full(err):
		return a, fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
	case err != nil:
		return a, err
	case a.Model != "" && a.Model != p.Name: // an answer that broke off at once has no name
		return a, fmt.Errorf("%q answered", a.Model)
	}
	return a, nil
}

// full recognises what the server says to a prompt without room: the shares of
// parallel requests may be smaller than what it was asked for.
func full(err error) bool {
	if jsonhttp.Status(err) == 0 {
		return false
	}
	said := jsonhttp.Said(err)
	return strings.Contains(said, "exceeds the context length") || strings.Contains(said, "exceed_context_size")
}

func (b *Backend) body(p sampler.Policy, r sampler.Request, q question) (path string, body any) {
	no, forever := false, api.Duration{Duration: -1}
	if q.messages != nil {
		return "/api/chat", api.ChatRequest{
			Model: p.Name, Messages: q.messages, Stream: &no, Truncate: &no, Shift: &no,
			KeepAlive: &forever, Options: b.options(r),
		}
	}
	return "/api/generate", api.GenerateRequest{
		Model: p.Name, Prompt: q.text, Raw: true, Stream: &no, Truncate: &no, Shift: &no,
		Think:     &api.ThinkValue{Value: false}, // else the server cuts thoughts out of the text
		KeepAlive: &forever, Options: b.options(r), Logprobs: b.cfg.Logprobs,
	}
}

// completion reads an answer. Without its end it counts as cut off.
func (b *Backend) completion(ctx context.Context, p sampler.Policy, q question, a answer) (sampler.Completion, error) {
	c := sampler.Completion{Text: a.Response + a.Message.Content, Finish: sampler.FinishLength, Policy: p}
	if a.Done && a.DoneReason == "stop" {
		c.Finish = sampler.FinishStop
	}
	respelled := false
	if b.spell != nil {
		var err error
		if c.IDs, err = b.spell.ids(ctx, c.Text, c.Finish); err != nil {
			return sampler.Completion{}, err
		}
		c.Logprobs = gaps(len(c.IDs))
		if b.cfg.Logprobs {
			if c.Logprobs, err = b.spell.logprobs(ctx, c.IDs, a.Logprobs); err != nil {
				return sampler.Completion{}, err
			}
		}
		respelled = a.Done && int64(len(c.IDs)) != a.Sampled
	}
	count := func(n *int64, yes bool) {
		if yes {
			*n++
		}
	}
	b.counters.update(func(s *Stats) {
		s.Requests++
		s.PromptTokens += a.Prompt
		s.Sampled += a.Sampled
		count(&s.Truncated, !a.Done)
		count(&s.Respelled, respelled)
		count(&s.Longer, q.ids > 0 && a.Prompt > int64(q.ids))
	})
	return c, nil
}
