package ollama

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/ollama/ollama/api"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// A Codec is the base model's tokenizer.
type Codec interface {
	chat.Codec
	// TokenizeSpecial encodes text and parses control tokens in it, as Ollama
	// does.
	TokenizeSpecial(ctx context.Context, text string) ([]int32, error)
}

// ErrForged is wrapped by Sample if a prompt contains the text of a control
// token that its ids do not contain. Ollama would parse it as a control token.
// The text is from an environment, a tip or the policy.
var ErrForged = errors.New("text that would become a control token")

// retokenizer turns ids into text and back. It is safe for concurrent use.
type retokenizer struct {
	codec    Codec
	endToken string

	mu     sync.Mutex
	end    int32
	known  bool // end is set
	pieces map[int32]string
}

// text decodes a prompt. same says whether the server will encode the text as
// the same ids: a prompt that was tokenized in parts may have two tokens where
// the server, which sees the whole text, finds one. If a control token differs,
// the error is an ErrForged.
func (s *retokenizer) text(ctx context.Context, ids []int32) (text string, same bool, err error) {
	if text, err = s.codec.Detokenize(ctx, ids); err != nil {
		return "", false, fmt.Errorf("decode the prompt: %w", err)
	}
	read, err := s.codec.TokenizeSpecial(ctx, text)
	if err != nil {
		return "", false, fmt.Errorf("check the prompt's text: %w", err)
	}
	if slices.Equal(read, ids) {
		return text, true, nil
	}
	return text, false, s.checkForged(ctx, ids, read)
}

// checkForged returns an error if the server reads a control token more often
// than it was sent.
func (s *retokenizer) checkForged(ctx context.Context, sent, read []int32) error {
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
		piece, err := s.piece(ctx, id)
		if err != nil {
			return err
		}
		plain, err := s.codec.Tokenize(ctx, piece)
		if err != nil {
			return err
		}
		if !slices.Contains(plain, id) {
			return fmt.Errorf("%w: %q, %d times\n"+
				"  hint: choose a sampler.backend that takes ids, or keep such texts out of observations and "+
				"tips", ErrForged, piece, n)
		}
	}
	return nil
}

// ids encodes an answer. Control tokens in the middle become their ids. The end
// token is appended to a finished answer, because the server does not send it.
func (s *retokenizer) ids(ctx context.Context, text string, finish sampler.FinishReason) ([]int32, error) {
	end, err := s.endID(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := s.codec.TokenizeSpecial(ctx, text)
	if err == nil && slices.Contains(ids, end) { // written as text; a sampled end token would have ended the answer
		ids, err = s.codec.Tokenize(ctx, text)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenize the answer: %w", err)
	}
	if finish == sampler.FinishStop {
		ids = append(slices.Clip(ids), end)
	}
	return ids, nil
}

func (s *retokenizer) endID(ctx context.Context) (int32, error) {
	s.mu.Lock()
	end, known := s.end, s.known
	s.mu.Unlock()
	if known {
		return end, nil
	}
	end, err := s.codec.ControlToken(ctx, s.endToken)
	if err != nil {
		return 0, fmt.Errorf("the token that ends an answer: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end, s.known = end, true
	return end, nil
}

// piece is the text of one id.
func (s *retokenizer) piece(ctx context.Context, id int32) (string, error) {
	s.mu.Lock()
	piece, ok := s.pieces[id]
	s.mu.Unlock()
	if ok {
		return piece, nil
	}
	piece, err := s.codec.Detokenize(ctx, []int32{id})
	if err != nil {
		return "", fmt.Errorf("decode token %d: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pieces == nil {
		s.pieces = map[int32]string{}
	}
	s.pieces[id] = piece
	return piece, nil
}

// gaps are log-probs that are not known.
func gaps(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(math.NaN())
	}
	return out
}

// logprobs returns the server's log-probs up to the first of its tokens whose
// text is not that of the id. The others are NaN.
func (s *retokenizer) logprobs(ctx context.Context, ids []int32, said []api.Logprob) ([]float32, error) {
	out := gaps(len(ids))
	for i := range min(len(ids), len(said)) {
		piece, err := s.piece(ctx, ids[i])
		if err != nil {
			return nil, err
		}
		if said[i].Token != piece {
			break
		}
		out[i] = float32(said[i].Logprob)
	}
	return out, nil
}
