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

// A Codec is the base model's tokenizer, also as Ollama uses it.
type Codec interface {
	chat.Codec
	// TokenizeSpecial encodes text as a server does that parses control tokens
	// in it.
	TokenizeSpecial(ctx context.Context, text string) ([]int32, error)
}

// ErrForged is wrapped by Sample when a prompt holds the text of a control
// token where its ids do not hold the token: Ollama, which parses control
// tokens in text, would take it for one. It is what an environment, a tip or
// the policy itself wrote.
var ErrForged = errors.New("text that would become a control token")

// speller turns ids into text and back. It is safe for concurrent use.
type speller struct {
	codec    Codec
	endToken string

	mu     sync.Mutex
	end    int32
	known  bool // end is set
	pieces map[int32]string
}

// text decodes a prompt. same says whether the server will read it as the same
// ids: a prompt that is put together from parts may hold two tokens where the
// server, which sees the whole, finds one. Then the text and every control
// token are still the same; where a control token differs it is an ErrForged.
func (s *speller) text(ctx context.Context, ids []int32) (text string, same bool, err error) {
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

// checkForged looks for control tokens among the ids that the server reads
// more often than were sent.
func (s *speller) checkForged(ctx context.Context, sent, read []int32) error {
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
			return fmt.Errorf("%w: %q, %d times\n  hint: choose a sampler.backend that takes ids, or keep such texts out of observations and tips", ErrForged, piece, n)
		}
	}
	return nil
}

// ids are what the codec makes of an answer: control tokens that the policy
// wrote in the middle are such again, and a finished answer ends with the end
// token, which the server keeps to itself.
func (s *speller) ids(ctx context.Context, text string, finish sampler.FinishReason) ([]int32, error) {
	end, err := s.endID(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := s.codec.TokenizeSpecial(ctx, text)
	if err == nil && slices.Contains(ids, end) { // spelled out, else the answer had ended there
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

func (s *speller) endID(ctx context.Context) (int32, error) {
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
func (s *speller) piece(ctx context.Context, id int32) (string, error) {
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

// gaps are log-probs of which none is known.
func gaps(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(math.NaN())
	}
	return out
}

// logprobs are the server's as far as its pieces are those of ids, in order.
// From the first that is not, nothing is known.
func (s *speller) logprobs(ctx context.Context, ids []int32, said []api.Logprob) ([]float32, error) {
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
