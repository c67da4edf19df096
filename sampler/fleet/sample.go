package fleet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// Sample samples from the version p. The log-probs are NaN if the servers give
// them after temperature, top-p and top-k and one of these changes the
// distribution: they are then not the policy's.
func (b *Backend) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	c, err := b.sample(ctx, p, r)
	if err != nil {
		return sampler.Completion{}, fmt.Errorf("sample %s: %w", p.Name, err)
	}
	b.counters.answered(c)
	return c, nil
}

func (b *Backend) sample(ctx context.Context, p sampler.Policy, r sampler.Request) (c sampler.Completion, err error) {
	v, err := b.enter(p)
	if err != nil {
		return c, err
	}
	defer v.gate.Leave()
	if err := r.CheckIDs(b.probe.Capabilities); err != nil {
		return c, err
	}
	ctx, cancel := sampler.Within(ctx, b.alive)
	defer cancel()
	if ctx.Err() != nil {
		return c, context.Cause(ctx)
	}
	return b.try(ctx, v, r)
}

// maxTries is how often a request is sent, in addition to once per replica.
const maxTries = 4

// try sends a request to one replica after another until one answers.
func (b *Backend) try(ctx context.Context, v *version, r sampler.Request) (c sampler.Completion, err error) {
	tried, retryable := map[*admission.Place]bool{}, false
	retry := jsonhttp.Retry{
		First: firstPause, Last: 128 * firstPause, Attempts: maxTries + len(b.replicas),
		LongestAfter: 128 * firstPause, // another replica may be free
		Again:        func(error) bool { return retryable },
		Before:       func(int, time.Duration, error) { b.counters.add(Stats{Retries: 1}) },
	}
	err = retry.Do(ctx, func(ctx context.Context) error {
		retryable = false
		request := admission.Request{Session: r.Session, Avoid: tried}
		place, err := b.acquire(ctx, request)
		if err != nil {
			return err
		}
		c, place, err = b.hedge(v, r, request).Run(ctx, place)
		if err == nil {
			return nil
		}
		tried[place] = true
		retryable = errors.Is(err, ErrLost) || errors.Is(err, ErrUnknownModel)
		return fmt.Errorf("%s: %w", b.replicas[place.Index].server.URL(), err)
	})
	return c, err
}

// hedge sends a request to a second replica too when it is late at the first one.
func (b *Backend) hedge(v *version, r sampler.Request, request admission.Request) admission.Hedge[sampler.Completion] {
	return admission.Hedge[sampler.Completion]{
		Queue: b.queue, Request: request, Tokens: r.MaxTokens,
		Attempt: func(ctx context.Context, place *admission.Place, _ bool) (sampler.Completion, error) {
			begun := time.Now()
			c, err := b.replicas[place.Index].attempt(ctx, v, r)
			if err == nil {
				place.Answered(len(c.IDs), time.Since(begun))
			}
			return c, err
		},
		Rescued: func() { b.counters.add(Stats{Rescued: 1}) },
		Late: func(from, to *admission.Place, after time.Duration) {
			b.counters.add(Stats{Late: 1})
			b.cfg.Log.Info().Str("server", b.replicas[from.Index].server.URL()).Stringer("after", after).
				Str("to", b.replicas[to.Index].server.URL()).Msg("a late request is sent to another replica too")
		},
	}
}

var (
	errSlow     = errors.New("the request took too long")
	errWentDown = errors.New("the replica went down")
)

// attempt sends a request to one replica once. It marks the replica suspect or
// down after an error. A replica hangs if it answers no request at all within
// the deadline of a request. The request is lost when the replica goes down and
// another one is healthy.
func (r *replica) attempt(ctx context.Context, v *version, q sampler.Request) (sampler.Completion, error) {
	before, limit := r.answered.Load(), r.b.cfg.RequestTimeout
	limited, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	limited, stop := sampler.Within(limited, r.uptime())
	defer stop()
	c, err := r.complete(limited, v, q)
	switch {
	case err == nil:
		r.answered.Add(1)
	case ctx.Err() != nil:
	case errors.Is(context.Cause(limited), errWentDown):
		err = fmt.Errorf("%w: %w", ErrLost, errWentDown)
	case errors.Is(err, errSlow) && r.answered.Load() != before:
		return c, fmt.Errorf("%w: no answer within %v, although the server answered other requests\n"+
			"  hint: raise sampler.timeout_seconds or lower sampler.concurrency", err, limit)
	case errors.Is(err, errSlow):
		err = fmt.Errorf("%w: no answer within %v", ErrLost, limit)
		r.markDown(err)
	case errors.Is(err, ErrLost):
		r.markSuspect(err)
	case errors.Is(err, ErrUnknownModel), errors.Is(err, errBadAnswer):
		r.markDown(err)
	}
	return c, err
}

// errBadAnswer is wrapped if an answer does not fit the request.
var errBadAnswer = errors.New("bad answer")

// complete sends a request to the server and checks the answer.
func (r *replica) complete(ctx context.Context, v *version, q sampler.Request) (sampler.Completion, error) {
	a, err := r.server.Complete(ctx, v.policy.Name, q)
	if err != nil {
		return sampler.Completion{}, err
	}
	c, err := r.b.read(v, q, a)
	if err != nil {
		return c, fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	return c, nil
}

const (
	// maxLogprob allows for rounding above 0.
	maxLogprob = 1e-4
	// impossible is what vLLM writes for a log-prob of -Inf. No other log-prob is so low.
	impossible = -9999
)

// read checks an answer and converts it into a completion.
func (b *Backend) read(v *version, q sampler.Request, a Answer) (sampler.Completion, error) {
	c := sampler.Completion{IDs: a.IDs, Logprobs: a.Logprobs, Text: a.Text, Finish: a.Finish, Policy: v.policy}
	n := len(a.IDs)
	switch {
	case a.Model != v.policy.Name:
		return c, fmt.Errorf("%q answers in place of %s", a.Model, v.policy.Name)
	case a.Prompt != len(q.Prompt):
		return c, fmt.Errorf("%d prompt tokens were read, %d were sent", a.Prompt, len(q.Prompt))
	case n == 0 || n > q.MaxTokens:
		return c, fmt.Errorf("%d tokens, %d were asked for", n, q.MaxTokens)
	case len(a.Logprobs) != n:
		return c, fmt.Errorf("%d log-probs for %d tokens", len(a.Logprobs), n)
	case a.Finish == "" || a.Finish == sampler.FinishLength && n != q.MaxTokens:
		return c, fmt.Errorf("stopped by %q after %d of %d tokens", a.Finish, n, q.MaxTokens)
	}
	if err := b.probe.Capabilities.CheckVocabulary(a.IDs); err != nil {
		return c, err
	}
	unknown := 0
	for i, l := range a.Logprobs {
		switch f := float64(l); {
		case f > maxLogprob: // +Inf too
			return c, fmt.Errorf("log-prob %v of id %d", l, a.IDs[i])
		case math.IsNaN(f) || f <= impossible: // the token is not trained
			c.Logprobs[i] = float32(math.NaN())
			unknown++
		default:
			c.Logprobs[i] = min(l, 0)
		}
	}
	if unknown == n && n > 1 {
		return c, fmt.Errorf("no log-prob of %d tokens", n)
	}
	changed := q.Truncated() || q.Temperature != 0 && q.Temperature != 1
	if b.probe.Capabilities.LogprobSpace == "processed" && changed {
		c.Logprobs = sampler.UnknownLogprobs(n)
	}
	return c, nil
}
