package ollama

import (
	"context"
	"errors"
	"fmt"

	"github.com/ollama/ollama/api"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
	"github.com/empo2/empo2/sampler/chat"
)

// Sample samples from the version p. With a codec it sends the text of the
// prompt's ids, and the completion has the codec's ids. Without a codec it sends
// the messages, and the completion has no ids.
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
	defer v.gate.Leave()
	ctx, end := sampler.Within(ctx, b.alive)
	defer end()
	q, err := b.input(ctx, r)
	if err != nil {
		return sampler.Completion{}, err
	}
	a, err := b.send(ctx, p, r, q)
	if err != nil {
		return sampler.Completion{}, fmt.Errorf("%s: %w", b.client.web.URL(), err)
	}
	c, err := b.completion(ctx, p, q, a)
	if err != nil {
		return c, fmt.Errorf("%s: %w", b.client.web.URL(), err)
	}
	return c, nil
}

// enter returns a version for one request, which must leave its gate.
func (b *Backend) enter(p sampler.Policy) (*version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.versions[p.Version]
	switch {
	case b.closed:
		return nil, errClosed
	case v == nil, v.policy != p, !v.gate.Enter():
		return nil, sampler.ErrPolicyGone
	}
	return v, nil
}

// input is the prompt for the server: a text, or messages for the model's chat
// template.
type input struct {
	text     string
	messages []api.Message
	ids      int // number of ids of text; 0: unknown
}

func (b *Backend) input(ctx context.Context, r sampler.Request) (input, error) {
	if err := r.CheckSampling(b.caps); err != nil {
		return input{}, err
	}
	switch {
	case r.MaxTokens < 1:
		return input{}, fmt.Errorf("%d tokens to sample", r.MaxTokens)
	case b.retokenizer == nil || len(r.Prompt) == 0:
		return messages(r.Messages)
	case len(r.Prompt)+r.MaxTokens > b.cfg.NumCtx:
		return input{}, fmt.Errorf("%w: %d tokens and %d to sample, %d in all",
			sampler.ErrContextFull, len(r.Prompt), r.MaxTokens, b.cfg.NumCtx)
	}
	text, same, err := b.retokenizer.decode(ctx, r.Prompt)
	if err != nil {
		return input{}, err
	}
	if !same {
		b.counters.Update(func(s *Stats) { s.Rejoined++ })
	}
	return input{text: text, ids: len(r.Prompt)}, nil
}

func messages(given []chat.Message) (input, error) {
	if len(given) == 0 {
		return input{}, errors.New("no messages, and no tokenizer for ids")
	}
	var q input
	for _, m := range given {
		q.messages = append(q.messages, api.Message{Role: m.Role, Content: m.Text()})
	}
	return q, nil
}

// options sets every parameter, because the defaults of server and model are for
// chatting. The server reloads the model when the context or the threads change,
// so they are equal in all requests.
func (b *Backend) options(r sampler.Request) map[string]any {
	o := map[string]any{
		"temperature": r.Temperature, "top_k": r.TopK, "top_p": r.NucleusP(), "min_p": 0, "typical_p": 1,
		"repeat_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
		"seed": sampler.ShortSeed(r.Seed), "num_predict": r.MaxTokens, "num_ctx": b.cfg.NumCtx,
		"stop": append([]string{}, r.Stop...),
	}
	if b.cfg.Threads > 0 {
		o["num_thread"] = b.cfg.Threads
	}
	return o
}

// answer has the fields of both endpoints that are used.
type answer struct {
	Model      string         `json:"model"`
	Response   *string        `json:"response"` // of /api/generate
	Message    *api.Message   `json:"message"`  // of /api/chat
	Done       bool           `json:"done"`
	DoneReason string         `json:"done_reason"`
	Prompt     int64          `json:"prompt_eval_count"`
	Sampled    int64          `json:"eval_count"`
	Logprobs   []tokenLogprob `json:"logprobs"`
}

// tokenLogprob is an [api.TokenLogprob] whose log-prob may be absent.
type tokenLogprob struct {
	Token   string   `json:"token"`
	Logprob *float64 `json:"logprob"`
}

// text returns the text of an answer; ok is false if there is none.
func (a answer) text() (text string, ok bool) {
	if a.Response != nil {
		text = *a.Response
	}
	if a.Message != nil {
		text += a.Message.Content
	}
	return text, a.Response != nil || a.Message != nil
}

// check returns an error if the answer is not one of the model.
func (a answer) check(model string) error {
	text, ok := a.text()
	switch {
	case !ok:
		return errors.New("the answer has no text\n  hint: sampler.ollama.url must be Ollama's own address")
	case a.Model != model && (a.Model != "" || text != ""): // an empty answer has no name
		return fmt.Errorf("model %q answered", a.Model)
	}
	return nil
}

// send waits for the turn of the model's version. It sends the request and retries
// until there is an answer.
func (b *Backend) send(ctx context.Context, p sampler.Policy, r sampler.Request, q input) (a answer, err error) {
	turn, err := b.turns.Acquire(ctx, admission.Request{Class: p.Name})
	if err != nil {
		return a, fmt.Errorf("waiting for a turn: %w", err)
	}
	defer turn.Release()
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.RequestTimeout,
		fmt.Errorf("no answer within %v", b.cfg.RequestTimeout))
	defer cancel()
	path, body := b.body(p, r, q)
	err = b.client.try(ctx, func() error {
		a = answer{}
		return b.client.generate(ctx, path, body, r.MaxTokens, &a)
	}, b.countRetry("generate", p))
	switch {
	case jsonhttp.ContextFull(err): // parallel requests share the context, so it may be smaller than configured
		return a, fmt.Errorf("%w: %w", sampler.ErrContextFull, err)
	case err != nil:
		return a, err
	}
	return a, a.check(p.Name)
}

// CountTokens returns how many tokens the base model's tokenizer makes of a text, and
// of the token that it may add at the beginning.
func (b *Backend) CountTokens(ctx context.Context, text string) (int, error) {
	a, err := b.send(ctx, b.policy(0), sampler.Request{MaxTokens: 1}, input{text: text})
	if err != nil {
		return 0, fmt.Errorf("count the tokens of %.40q: %w", text, err)
	}
	return int(a.Prompt), nil
}

func (b *Backend) body(p sampler.Policy, r sampler.Request, q input) (path string, body any) {
	no, forever := false, api.Duration{Duration: -1}
	if q.messages != nil {
		return "/api/chat", api.ChatRequest{
			Model: p.Name, Messages: q.messages, Stream: &no, Truncate: &no, Shift: &no,
			Think: b.cfg.think(), KeepAlive: &forever, Options: b.options(r),
		}
	}
	return "/api/generate", api.GenerateRequest{
		Model: p.Name, Prompt: q.text, Raw: true, Stream: &no, Truncate: &no, Shift: &no,
		Think:     &api.ThinkValue{Value: false}, // otherwise the server removes thoughts from the text
		KeepAlive: &forever, Options: b.options(r), Logprobs: b.cfg.Logprobs,
	}
}

// completion converts an answer. An incomplete answer counts as truncated.
func (b *Backend) completion(ctx context.Context, p sampler.Policy, q input, a answer) (sampler.Completion, error) {
	text, _ := a.text()
	c := sampler.Completion{Text: text, Finish: sampler.FinishLength, Policy: p}
	if a.Done && a.DoneReason == "stop" {
		c.Finish = sampler.FinishStop
	}
	respelled := false
	if b.retokenizer != nil {
		var err error
		if c.IDs, err = b.retokenizer.encode(ctx, c.Text, c.Finish); err != nil {
			return sampler.Completion{}, err
		}
		c.Logprobs = sampler.UnknownLogprobs(len(c.IDs))
		if b.cfg.Logprobs {
			if c.Logprobs, err = b.retokenizer.logprobs(ctx, c.IDs, a.Logprobs); err != nil {
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
	b.counters.Update(func(s *Stats) {
		s.Requests++
		s.PromptTokens += a.Prompt
		s.Sampled += a.Sampled
		count(&s.Truncated, !a.Done)
		count(&s.Respelled, respelled)
		count(&s.Longer, q.ids > 0 && a.Prompt > int64(q.ids))
	})
	return c, nil
}
