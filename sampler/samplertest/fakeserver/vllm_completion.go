package fakeserver

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

func (v *VLLM) complete(w http.ResponseWriter, r *http.Request) {
	var body VLLMRequest
	if !decode(w, r, &body) {
		return
	}
	if v.Sent != nil {
		v.Sent(body)
	}
	q, version, ok := v.request(w, body)
	if !ok {
		return
	}
	fault, end := v.begin(body.Model, q)
	defer end()
	busy := func() {
		v.refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "The server is overloaded")
	}
	if replacesAnswer(w, r, fault, v.closing, busy) {
		return
	}
	if fault == samplertest.FaultDie {
		v.Kill()
		return
	}
	c := v.sample(version, body, q)
	v.spoil(&c, fault)
	if a := v.answer(body, c, fault); fault == samplertest.FaultCut {
		breakOff(w, a)
	} else {
		reply(w, http.StatusOK, a)
	}
}

// request converts a body to a request to the script. If the server refuses it, it sends an error, and ok is false.
func (v *VLLM) request(w http.ResponseWriter, body VLLMRequest) (q sampler.Request, version int, ok bool) {
	version, ok = v.Engine.version(body.Model)
	if !ok {
		v.refuse(w, http.StatusNotFound, "NotFoundError", "The model `%s` does not exist. Valid aliases: %s.", body.Model,
			v.Model)
		return q, 0, false
	}
	if !v.accepts(w, body) {
		return q, 0, false
	}
	q = sampler.Request{Prompt: body.Prompt, MaxTokens: 16, Temperature: 1}
	if body.MaxTokens != nil {
		q.MaxTokens = *body.MaxTokens
	}
	q.MaxTokens = min(q.MaxTokens, v.Context-len(body.Prompt)) // the server does not report this
	if body.Temperature != nil {
		q.Temperature = *body.Temperature
	}
	q.Stop = body.Stop
	if body.TopP != nil {
		q.TopP = *body.TopP
	}
	if body.TopK != nil {
		q.TopK = max(*body.TopK, 0)
	}
	if body.Seed != nil {
		q.Seed = uint64(*body.Seed)
	}
	return q, version, true
}

// accepts checks the ids of a request. If the server refuses them, it sends an error and returns false.
func (v *VLLM) accepts(w http.ResponseWriter, body VLLMRequest) bool {
	vocabulary := v.Policy.Tokenizer.VocabSize()
	for text := range body.LogitBias {
		if id, err := strconv.Atoi(text); err != nil || id < 0 || id >= vocabulary {
			v.refuse(w, http.StatusBadRequest, "BadRequestError",
				"token_id(s) [%s] in logit_bias contain out-of-vocab token ids. Vocabulary size: %d (parameter=logit_bias, "+
					"value=[%s])", text, vocabulary, text)
			return false
		}
	}
	for _, id := range body.Prompt {
		if id < 0 || int(id) >= vocabulary {
			v.refuse(w, http.StatusBadRequest, "BadRequestError", "Token id %d is out of vocabulary", id)
			return false
		}
	}
	if len(body.Prompt) == 0 {
		v.refuse(w, http.StatusBadRequest, "BadRequestError", "You must pass at least one prompt")
		return false
	}
	if len(body.Prompt) > v.Context {
		v.refuse(w, http.StatusBadRequest, "BadRequestError",
			"This model's maximum context length is %d tokens. However, your prompt contains %d input tokens, which exceeds "+
				"this limit even without any output tokens.", v.Context, len(body.Prompt))
		return false
	}
	return true
}

// sample samples from the script. If the request allows only some ids, it returns the first of them.
func (v *VLLM) sample(version int, body VLLMRequest, q sampler.Request) sampler.Completion {
	var c sampler.Completion
	if len(body.AllowedIDs) > 0 {
		c = sampler.Completion{IDs: body.AllowedIDs[:1], Logprobs: []float32{-3}, Finish: sampler.FinishLength}
		if v.Processed {
			c.Logprobs[0] = 0
		}
		return c
	}
	c = v.Policy.Sample(version, q)
	if v.Processed && q.Temperature > 0 {
		for i := range c.Logprobs {
			c.Logprobs[i] /= float32(q.Temperature)
		}
	}
	return c
}

// answer returns the body of an answer of /v1/completions.
func (v *VLLM) answer(body VLLMRequest, c sampler.Completion, fault samplertest.Fault) map[string]any {
	tokens, values, offsets := []string{}, []*float64{}, []int{}
	for i, id := range c.IDs {
		token := v.Policy.Tokenizer.Piece(id)
		if fault == samplertest.FaultWrongIDs {
			id++
		}
		if body.AsIDs {
			token = fmt.Sprintf("token_id:%d", id)
		}
		value := float64(c.Logprobs[i])
		tokens, values, offsets = append(tokens, token), append(values, &value), append(offsets, 0)
	}
	if fault == samplertest.FaultNaN {
		values[len(values)-1] = nil
	}
	choice := map[string]any{
		"index": 0, "text": c.Text, "finish_reason": string(c.Finish), "stop_reason": nil,
		"token_ids": nil, "prompt_token_ids": nil, "logprobs": nil,
	}
	if body.Logprobs != nil && fault != samplertest.FaultNoLogprobs {
		choice["logprobs"] = map[string]any{"tokens": tokens, "token_logprobs": values, "text_offset": offsets,
			"top_logprobs": []any{}}
	}
	if body.ReturnIDs && !v.NoIDs {
		choice["token_ids"], choice["prompt_token_ids"] = c.IDs, body.Prompt
	}
	model := body.Model
	if fault == samplertest.FaultWrongModel {
		model = v.Model + "-other"
	}
	return map[string]any{
		"id": "cmpl-0", "object": "text_completion", "created": 0, "model": model, "choices": []any{choice},
		"usage": map[string]any{"prompt_tokens": len(body.Prompt), "completion_tokens": len(c.IDs),
			"total_tokens": len(body.Prompt) + len(c.IDs)},
	}
}
