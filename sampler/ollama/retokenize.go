package ollama

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// A Codec is the base model's tokenizer.
type Codec interface {
	chat.Codec
	// TokenizeSpecial encodes text. Like Ollama, it turns control tokens in the
	// text into their ids.
	TokenizeSpecial(ctx context.Context, text string) ([]int32, error)
}

// ErrForged is wrapped by Sample if a prompt contains the text of a control
// token that is not in its ids, because Ollama would read it as a control token.
// Such text comes from an environment, a tip or the policy.
var ErrForged = errors.New("text that would become a control token")

// retokenizer converts between ids and text. It is safe for concurrent use.
type retokenizer struct {
	codec    Codec
	endToken string

	mu       sync.Mutex
	end      int32
	endKnown bool // end is set
	pieces   map[int32]string
}

// decode returns the text of a prompt. same says whether the server will encode
// the text as the same ids. A prompt that was tokenized in parts may have two
// tokens where the server, which tokenizes the whole text, has one. The error
// wraps ErrForged if the control tokens differ.
func (r *retokenizer) decode(ctx context.Context, ids []int32) (text string, same bool, err error) {
	if text, err = r.codec.Detokenize(ctx, ids); err != nil {
		return "", false, fmt.Errorf("decode the prompt: %w", err)
	}
	read, err := r.codec.TokenizeSpecial(ctx, text)
	if err != nil {
		return "", false, fmt.Errorf("check the prompt's text: %w", err)
	}
	if slices.Equal(read, ids) {
		return text, true, nil
	}
	return text, false, r.checkForged(ctx, ids, read)
}

// checkForged returns an error if the server reads more control tokens than were
// sent.
func (r *retokenizer) checkForged(ctx context.Context, sent, read []int32) error {
	extra := map[int32]int{}
	for _, id := range read {
		extra[id]++
	}
	for _, id := range sent {
		extra[id]--
	}
	for id, n := range extra {
		if n <= 0 {
			continue
		}
		piece, err := r.piece(ctx, id)
		if err != nil {
			return err
		}
		plain, err := r.codec.Tokenize(ctx, piece)
		if err != nil {
			return err
		}
		if !slices.Contains(plain, id) {
			return fmt.Errorf("%w: %q, %d times\n"+
				"  hint: choose a sampler.backend that accepts ids, or remove such texts from observations and tips",
				ErrForged, piece, n)
		}
	}
	return nil
}

// encode returns the ids of an answer. Control tokens in the text become their
// ids. encode appends the end token to a finished answer, because the server does
// not send it.
func (r *retokenizer) encode(ctx context.Context, text string, finish sampler.FinishReason) ([]int32, error) {
	end, err := r.endID(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := r.codec.TokenizeSpecial(ctx, text)
	if err == nil && slices.Contains(ids, end) { // plain text: a sampled end token ends the answer
		ids, err = r.codec.Tokenize(ctx, text)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenize the answer: %w", err)
	}
	if finish == sampler.FinishStop {
		ids = append(slices.Clip(ids), end)
	}
	return ids, nil
}

func (r *retokenizer) endID(ctx context.Context) (int32, error) {
	r.mu.Lock()
	end, known := r.end, r.endKnown
	r.mu.Unlock()
	if known {
		return end, nil
	}
	end, err := r.codec.ControlToken(ctx, r.endToken)
	if err != nil {
		return 0, fmt.Errorf("the token that ends an answer: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end, r.endKnown = end, true
	return end, nil
}

// piece returns the text of one id.
func (r *retokenizer) piece(ctx context.Context, id int32) (string, error) {
	r.mu.Lock()
	piece, ok := r.pieces[id]
	r.mu.Unlock()
	if ok {
		return piece, nil
	}
	piece, err := r.codec.Detokenize(ctx, []int32{id})
	if err != nil {
		return "", fmt.Errorf("decode token %d: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pieces == nil {
		r.pieces = map[int32]string{}
	}
	r.pieces[id] = piece
	return piece, nil
}

// maxLogprob allows for rounding above 0.
const maxLogprob = 1e-4

// logprobs returns the server's log-probs of the first ids, as long as the texts
// of the server's tokens equal those of the ids. The others are NaN.
func (r *retokenizer) logprobs(ctx context.Context, ids []int32, given []tokenLogprob) ([]float32, error) {
	out := sampler.UnknownLogprobs(len(ids))
	for i := range min(len(ids), len(given)) {
		piece, err := r.piece(ctx, ids[i])
		if err != nil {
			return nil, err
		}
		if given[i].Token != piece {
			break
		}
		value := given[i].Logprob
		if value == nil {
			continue
		}
		if *value > maxLogprob {
			return nil, fmt.Errorf("log-prob %v of id %d is positive", *value, ids[i])
		}
		out[i] = float32(min(*value, 0))
	}
	return out, nil
}
