package samplertest

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/empo2/empo2/sampler"
)

// VLLM speaks the HTTP of a vLLM 0.32.0 with --enable-lora, as recorded:
// statuses, bodies and their types. Its policy is a script.
type VLLM struct {
	Engine
	Version string
	// DevMode is VLLM_SERVER_DEV_MODE, with --enable-sleep-mode.
	DevMode bool
	// Processed is --logprobs-mode processed_logprobs.
	Processed bool
	// NoIDs makes it one before 0.10.2.
	NoIDs bool
	// NoMetrics hides /metrics.
	NoMetrics bool
	MaxLoras  int
	// Sent sees every completion's body, if it is not nil.
	Sent func(VLLMRequest)
}

// VLLMRequest is the body of a /v1/completions as it came.
type VLLMRequest struct {
	Model       string             `json:"model"`
	Prompt      []int32            `json:"prompt"`
	MaxTokens   *int               `json:"max_tokens"`
	Temperature *float64           `json:"temperature"`
	TopP        *float64           `json:"top_p"`
	TopK        *int               `json:"top_k"`
	MinP        *float64           `json:"min_p"`
	Seed        *int64             `json:"seed"`
	Logprobs    *int               `json:"logprobs"`
	ReturnIDs   bool               `json:"return_token_ids"`
	AsIDs       bool               `json:"return_tokens_as_token_ids"`
	CacheSalt   *string            `json:"cache_salt"`
	AllowedIDs  []int32            `json:"allowed_token_ids"`
	LogitBias   map[string]float64 `json:"logit_bias"`
}

// NewVLLM starts the server on a free port of the loopback. Close ends it.
func NewVLLM(p Policy) *VLLM {
	v := &VLLM{Version: "0.32.0", MaxLoras: 4}
	v.start(p, "tiny", serve(map[string]http.HandlerFunc{
		"GET /health":                  v.health,
		"GET /version":                 v.version,
		"GET /v1/models":               v.models,
		"GET /metrics":                 v.metrics,
		"POST /tokenize":               v.serveTokenize,
		"POST /v1/load_lora_adapter":   v.loadAdapter,
		"POST /v1/unload_lora_adapter": v.unloadAdapter,
		"POST /v1/completions":         v.complete,
		"GET /is_sleeping":             v.dev(func(w http.ResponseWriter) { reply(w, 200, map[string]any{"is_sleeping": v.Asleep()}) }),
		"POST /sleep": v.dev(func(w http.ResponseWriter) {
			v.sleep(true)
			reply(w, 200, map[string]any{"status": "sleeping", "level": 1})
		}),
		"POST /wake_up": v.dev(func(w http.ResponseWriter) { v.sleep(false); w.WriteHeader(http.StatusOK) }),
	}))
	return v
}

func (v *VLLM) dev(answer func(http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !v.DevMode {
			notFound(w, r)
			return
		}
		answer(w)
	}
}

// refuse answers with vLLM's form of an error.
func (v *VLLM) refuse(w http.ResponseWriter, status int, kind, format string, args ...any) {
	reply(w, status, map[string]any{"error": map[string]any{
		"message": fmt.Sprintf(format, args...), "type": kind, "param": nil, "code": status,
	}})
}

func (v *VLLM) health(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

func (v *VLLM) version(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"version": v.Version})
}

func (v *VLLM) models(w http.ResponseWriter, _ *http.Request) {
	data := []any{map[string]any{"id": v.Model, "object": "model", "owned_by": "vllm", "root": v.Root, "parent": nil, "max_model_len": v.Context}}
	for _, name := range v.Adapters() {
		if a, ok := v.adapter(name); ok {
			data = append(data, map[string]any{"id": name, "object": "model", "owned_by": "vllm", "root": a.dir, "parent": v.Model, "max_model_len": nil})
		}
	}
	reply(w, http.StatusOK, map[string]any{"object": "list", "data": data})
}

func (v *VLLM) metrics(w http.ResponseWriter, r *http.Request) {
	if v.NoMetrics {
		notFound(w, r)
		return
	}
	running, waiting := v.busy()
	w.Header().Set("Content-Type", "text/plain; version=1.0.0; charset=utf-8")
	fmt.Fprintf(w, `# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name=%q} %d.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name=%q} %d.0
vllm:num_requests_waiting_by_reason{engine="0",model_name=%q,reason="capacity"} %d.0
vllm:lora_requests_info{max_lora="%d",running_lora_adapters="",waiting_lora_adapters=""} 1.79e+09
`, v.Model, running, v.Model, waiting, v.Model, waiting, v.MaxLoras)
}

func (v *VLLM) serveTokenize(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Prompt string `json:"prompt"`
	}{}
	if !decode(w, r, &body) {
		return
	}
	ids := v.tokenize(body.Prompt)
	reply(w, http.StatusOK, map[string]any{"count": len(ids), "max_model_len": v.Context, "tokens": ids, "token_strs": nil})
}

func (v *VLLM) loadAdapter(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Name string `json:"lora_name"`
		Path string `json:"lora_path"`
	}{}
	if v.Fixed {
		notFound(w, r)
		return
	}
	if !decode(w, r, &body) {
		return
	}
	_, known := v.adapter(body.Name)
	switch {
	case body.Name == "" || body.Path == "":
		v.refuse(w, http.StatusBadRequest, "Bad Request", "1 validation error:\n  {'type': 'missing', 'loc': 'body.lora_name', 'msg': 'Field required'}")
	case body.Name == v.Model:
		v.refuse(w, http.StatusBadRequest, "InvalidUserInput", "The lora adapter '%s' conflicts with a served base model.", body.Name)
	case known:
		v.refuse(w, http.StatusBadRequest, "InvalidUserInput", "The lora adapter '%s' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True.", body.Name)
	default:
		if refused := v.load(body.Name, body.Path); refused == nil {
			fmt.Fprintf(w, "Success: LoRA adapter '%s' added successfully.", body.Name)
		} else if refused.missing {
			v.refuse(w, http.StatusNotFound, "NotFoundError", "%s", refused.message)
		} else {
			v.refuse(w, http.StatusInternalServerError, "InternalServerError",
				"Call to add_lora method failed: Worker failed with error '%s', please check the stack trace above for the root cause", refused.message)
		}
	}
}

func (v *VLLM) unloadAdapter(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Name string `json:"lora_name"`
	}{}
	if v.Fixed {
		notFound(w, r)
		return
	}
	if !decode(w, r, &body) {
		return
	}
	if !v.unload(body.Name) {
		v.refuse(w, http.StatusNotFound, "NotFoundError", "The lora adapter '%s' cannot be found.", body.Name)
		return
	}
	fmt.Fprintf(w, "Success: LoRA adapter '%s' removed successfully.", body.Name)
}

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
	switch fault {
	case FaultHang:
		v.hang(r)
	case FaultDie:
		v.Kill()
	case FaultBusy:
		v.refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "The server is overloaded")
	case FaultGarbage:
		_, _ = w.Write([]byte("<html>proxy</html>"))
	default:
		c := v.sample(version, body, q)
		v.spoil(&c, fault)
		if a := v.body(body, c, fault); fault == FaultCut {
			breakOff(w, a)
		} else {
			reply(w, http.StatusOK, a)
		}
	}
}

// request turns a body into what the script is asked, or refuses it.
func (v *VLLM) request(w http.ResponseWriter, body VLLMRequest) (q sampler.Request, version int, ok bool) {
	version, ok = v.Engine.version(body.Model)
	if !ok {
		v.refuse(w, http.StatusNotFound, "NotFoundError", "The model `%s` does not exist. Valid aliases: %s.", body.Model, v.Model)
		return q, 0, false
	}
	vocabulary := v.Policy.Tokenizer.VocabSize()
	for text := range body.LogitBias {
		if id, err := strconv.Atoi(text); err != nil || id < 0 || id >= vocabulary {
			v.refuse(w, http.StatusBadRequest, "BadRequestError", "token_id(s) [%s] in logit_bias contain out-of-vocab token ids. Vocabulary size: %d (parameter=logit_bias, value=[%s])", text, vocabulary, text)
			return q, 0, false
		}
	}
	for _, id := range body.Prompt {
		if id < 0 || int(id) >= vocabulary {
			v.refuse(w, http.StatusBadRequest, "BadRequestError", "Token id %d is out of vocabulary", id)
			return q, 0, false
		}
	}
	if len(body.Prompt) == 0 {
		v.refuse(w, http.StatusBadRequest, "BadRequestError", "You must pass at least one prompt")
		return q, 0, false
	}
	if len(body.Prompt) > v.Context {
		v.refuse(w, http.StatusBadRequest, "BadRequestError", "This model's maximum context length is %d tokens. However, your prompt contains %d input tokens, which exceeds this limit even without any output tokens.", v.Context, len(body.Prompt))
		return q, 0, false
	}
	q = sampler.Request{Prompt: body.Prompt, MaxTokens: 16, Temperature: 1}
	if body.MaxTokens != nil {
		q.MaxTokens = *body.MaxTokens
	}
	q.MaxTokens = min(q.MaxTokens, v.Context-len(body.Prompt)) // without a word
	if body.Temperature != nil {
		q.Temperature = *body.Temperature
	}
	if body.Seed != nil {
		q.Seed = uint64(*body.Seed)
	}
	return q, version, true
}

// sample asks the script, or gives the only id that is allowed.
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

// body is the answer.
func (v *VLLM) body(body VLLMRequest, c sampler.Completion, fault Fault) map[string]any {
	tokens, values, offsets := []string{}, []*float64{}, []int{}
	for i, id := range c.IDs {
		token := v.Policy.Tokenizer.piece(id)
		if fault == FaultWrongIDs {
			id++
		}
		if body.AsIDs {
			token = fmt.Sprintf("token_id:%d", id)
		}
		value := float64(c.Logprobs[i])
		tokens, values, offsets = append(tokens, token), append(values, &value), append(offsets, 0)
	}
	if fault == FaultNaN {
		values[len(values)-1] = nil
	}
	choice := map[string]any{
		"index": 0, "text": visible(v.Policy, c.IDs), "finish_reason": string(c.Finish), "stop_reason": nil,
		"token_ids": nil, "prompt_token_ids": nil, "logprobs": nil,
	}
	if body.Logprobs != nil && fault != FaultNoLogprobs {
		choice["logprobs"] = map[string]any{"tokens": tokens, "token_logprobs": values, "text_offset": offsets, "top_logprobs": []any{}}
	}
	if body.ReturnIDs && !v.NoIDs {
		choice["token_ids"], choice["prompt_token_ids"] = c.IDs, body.Prompt
	}
	model := body.Model
	if fault == FaultWrongModel {
		model = v.Model + "-other"
	}
	return map[string]any{
		"id": "cmpl-0", "object": "text_completion", "created": 0, "model": model, "choices": []any{choice},
		"usage": map[string]any{"prompt_tokens": len(body.Prompt), "completion_tokens": len(c.IDs), "total_tokens": len(body.Prompt) + len(c.IDs)},
	}
}
