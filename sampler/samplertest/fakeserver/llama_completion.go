package fakeserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// answer is the body of an answer of /completion.
type answer struct {
	Index           int           `json:"index"`
	Content         string        `json:"content"`
	Tokens          []int32       `json:"tokens"`
	IDSlot          int           `json:"id_slot"`
	Stop            bool          `json:"stop"`
	Model           string        `json:"model,omitempty"`
	TokensPredicted int           `json:"tokens_predicted"`
	TokensEvaluated int           `json:"tokens_evaluated"`
	Truncated       bool          `json:"truncated"`
	StopType        string        `json:"stop_type,omitempty"`
	StoppingWord    string        `json:"stopping_word"`
	TokensCached    int           `json:"tokens_cached"`
	Probabilities   []probability `json:"completion_probabilities,omitempty"`
}

type probability struct {
	ID      int32    `json:"id"`
	Token   string   `json:"token"`
	Bytes   []int    `json:"bytes"`
	Logprob *float32 `json:"logprob"` // null is NaN
	Top     []any    `json:"top_logprobs"`
}

func (s *Llama) serveCompletion(w http.ResponseWriter, r *http.Request) {
	var body LlamaRequest
	if !decode(w, r, &body) {
		return
	}
	fault := s.next(body)
	busy := func() { fail(w, http.StatusServiceUnavailable, "unavailable_error", "Loading model", nil) }
	if replacesAnswer(w, r, fault, s.closing, busy) {
		return
	}
	if request, ok := s.request(w, body); ok {
		s.complete(w, body, request, fault)
	}
}

// next records a request and returns its fault.
func (s *Llama) next(body LlamaRequest) samplertest.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.requests)
	s.requests = append(s.requests, body)
	if s.Fault == nil {
		return ""
	}
	return s.Fault(n)
}

func (s *Llama) complete(w http.ResponseWriter, body LlamaRequest, r sampler.Request, fault samplertest.Fault) {
	c := s.Policy.Sample(s.Version, r)
	a := answer{
		Content: c.Text, Tokens: []int32{}, Stop: true, Model: s.Model, StopType: "limit",
		TokensPredicted: len(c.IDs), TokensEvaluated: len(r.Prompt), TokensCached: len(r.Prompt) + len(c.IDs) - 1,
	}
	stoppedByWord := c.Finish == sampler.FinishStop && c.IDs[len(c.IDs)-1] != samplertest.End
	switch {
	case stoppedByWord:
		a.StopType = "word"
	case c.Finish == sampler.FinishStop:
		a.StopType = "eos"
	}
	if body.ReturnTokens {
		a.Tokens = append(a.Tokens, c.IDs...)
	}
	if body.NProbs > 0 {
		a.Probabilities = s.probabilities(c)
	}
	if stoppedByWord { // the server omits as many entries as the stop string has tokens
		stop := s.Policy.Tokenizer.Encode(strings.TrimPrefix(s.Policy.Tokenizer.Decode(c.IDs), c.Text))
		a.Probabilities = a.Probabilities[:max(0, len(a.Probabilities)-len(stop))]
	}
	s.spoil(&a, fault)
	switch {
	case fault == samplertest.FaultCut:
		breakOff(w, a)
	case body.Stream:
		stream(w, a)
	default:
		reply(w, http.StatusOK, a)
	}
}

func (s *Llama) probabilities(c sampler.Completion) []probability {
	var out []probability
	for i, id := range c.IDs {
		piece := ""
		if id >= samplertest.FirstByte {
			piece = s.Policy.Tokenizer.Piece(id)
		}
		p := probability{ID: id, Token: piece, Bytes: []int{}, Logprob: &c.Logprobs[i], Top: []any{}}
		for _, b := range []byte(piece) {
			p.Bytes = append(p.Bytes, int(b))
		}
		out = append(out, p)
	}
	return out
}

// spoil applies a fault to an answer.
func (s *Llama) spoil(a *answer, fault samplertest.Fault) {
	switch fault {
	case samplertest.FaultWrongIDs:
		for i := range a.Probabilities {
			a.Probabilities[i].ID = samplertest.FirstByte + (a.Probabilities[i].ID+1)%256
		}
	case samplertest.FaultBadID:
		if len(a.Tokens) > 0 {
			a.Tokens[0] = int32(s.Policy.Tokenizer.VocabSize()) + 7
		}
	case samplertest.FaultNoLogprobs:
		a.Probabilities = nil
	case samplertest.FaultGap:
		if len(a.Probabilities) > 0 {
			a.Probabilities = a.Probabilities[1:]
		}
	case samplertest.FaultNaN:
		if n := len(a.Probabilities); n > 0 {
			a.Probabilities[n-1].Logprob = nil
		}
	case samplertest.FaultWrongModel:
		a.Model = samplertest.Name(s.Version + 1)
	case samplertest.FaultEmpty:
		a.Content, a.Tokens, a.Probabilities, a.TokensPredicted = "", []int32{}, nil, 0
	}
}

// breakOff announces a complete body, sends half of it and breaks the connection.
func breakOff(w http.ResponseWriter, a any) {
	body, err := json.Marshal(a)
	if err != nil {
		panic(err) // all types of bodies can be encoded
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body[:len(body)/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// stream sends an event per token and a last event without tokens. Like the real server it sends no event for a token
// that ends within a character.
func stream(w http.ResponseWriter, a answer) {
	w.Header().Set("Content-Type", "text/event-stream")
	text := ""
	for i, id := range a.Tokens {
		event := answer{Tokens: []int32{id}, IDSlot: -1, TokensPredicted: i + 1, TokensEvaluated: a.TokensEvaluated}
		if len(a.Probabilities) == len(a.Tokens) {
			text += a.Probabilities[i].Token
			event.Content, event.Probabilities = text, a.Probabilities[i:i+1]
		}
		if utf8.ValidString(text) {
			send(w, event)
			text = ""
		}
	}
	a.Tokens, a.Content, a.Probabilities = []int32{}, "", nil
	send(w, a)
}

func send(w http.ResponseWriter, event answer) {
	body, err := json.Marshal(event)
	if err != nil {
		panic(err) // all types of bodies can be encoded
	}
	_, _ = fmt.Fprintf(w, "data: %s\n\n", body)
}
