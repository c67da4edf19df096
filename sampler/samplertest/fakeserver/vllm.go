package fakeserver

import (
	"fmt"
	"net/http"

	"github.com/empo2/empo2/sampler/samplertest"
)

// VLLM is a fake vLLM 0.32.0 server with --enable-lora. Its statuses and bodies were recorded from the real server. Its
// model is a scripted policy.
type VLLM struct {
	Engine
	Version string
	// DevMode stands for the environment variable VLLM_SERVER_DEV_MODE and the flag --enable-sleep-mode.
	DevMode bool
	// Processed stands for the flag --logprobs-mode processed_logprobs.
	Processed bool
	// NoIDs makes the server a version before 0.10.2, without token ids in answers.
	NoIDs bool
	// NoLora says that the server was launched without --enable-lora, but with permission to load adapters.
	NoLora bool
	// NoTokenize says that the server has no /tokenize.
	NoTokenize bool
	// NoMetrics says that the server has no /metrics.
	NoMetrics bool
	MaxLoras  int
	// Sent is called with the body of every completion request; may be nil.
	Sent func(VLLMRequest)
}

// VLLMRequest is the body of a request to /v1/completions.
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
	Stop        []string           `json:"stop"`
}

// NewVLLM starts the server on a free port of the loopback. Close stops it.
func NewVLLM(p samplertest.Policy) *VLLM {
	v := &VLLM{Version: "0.32.0", MaxLoras: 4}
	v.start(p, "tiny", newMux(map[string]http.HandlerFunc{
		"GET /health":                  v.health,
		"GET /version":                 v.version,
		"GET /v1/models":               v.models,
		"GET /metrics":                 v.metrics,
		"POST /tokenize":               v.serveTokenize,
		"POST /detokenize":             v.serveDetokenize,
		"POST /v1/load_lora_adapter":   v.loadAdapter,
		"POST /v1/unload_lora_adapter": v.unloadAdapter,
		"POST /v1/completions":         v.complete,
		"GET /is_sleeping": v.dev(func(w http.ResponseWriter) {
			reply(w, 200,
				map[string]any{"is_sleeping": v.Asleep()})
		}),
		"POST /sleep": v.dev(func(w http.ResponseWriter) {
			v.sleep(true)
			reply(w, 200, map[string]any{"status": "sleeping", "level": 1})
		}),
		"POST /wake_up": v.dev(func(w http.ResponseWriter) { v.sleep(false); w.WriteHeader(http.StatusOK) }),
	}))
	return v
}

// dev is a handler that exists only in DevMode.
func (v *VLLM) dev(answer func(http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !v.DevMode {
			notFound(w, r)
			return
		}
		answer(w)
	}
}

// refuse sends an error in vLLM's format.
func (v *VLLM) refuse(w http.ResponseWriter, status int, kind, format string, args ...any) {
	reply(w, status, map[string]any{"error": map[string]any{
		"message": fmt.Sprintf(format, args...), "type": kind, "param": nil, "code": status,
	}})
}

func (v *VLLM) health(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

func (v *VLLM) version(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"version": v.Version})
}

func (v *VLLM) models(w http.ResponseWriter, _ *http.Request) { v.listModels(w, "vllm", v.Root) }

func (v *VLLM) metrics(w http.ResponseWriter, r *http.Request) {
	if v.NoMetrics {
		notFound(w, r)
		return
	}
	running, waiting := v.queue()
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
		Prompt     string `json:"prompt"`
		Messages   []any  `json:"messages"`
		Generation bool   `json:"add_generation_prompt"`
	}{}
	if v.NoTokenize {
		notFound(w, r)
		return
	}
	if !decode(w, r, &body) {
		return
	}
	text := body.Prompt
	for _, m := range body.Messages { // the model's chat template is ChatML
		message, _ := m.(map[string]any)
		text += fmt.Sprintf("<|im_start|>%s\n%s<|im_end|>\n", message["role"], message["content"])
	}
	if len(body.Messages) > 0 && body.Generation {
		text += "<|im_start|>assistant\n"
	}
	ids := v.tokenize(text)
	reply(w, http.StatusOK, map[string]any{"count": len(ids), "max_model_len": v.Context, "tokens": ids,
		"token_strs": nil})
}

func (v *VLLM) serveDetokenize(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Tokens []int32 `json:"tokens"`
	}{}
	if decode(w, r, &body) {
		reply(w, http.StatusOK, map[string]any{"prompt": v.Policy.Tokenizer.Decode(body.Tokens)})
	}
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
	if body.Name != "" && v.answeredWithLoadFault(w, body.Name, body.Path) {
		return
	}
	_, known := v.adapter(body.Name)
	switch {
	case body.Name == "" || body.Path == "":
		v.refuse(w, http.StatusBadRequest, "Bad Request",
			"1 validation error:\n  {'type': 'missing', 'loc': 'body.lora_name', 'msg': 'Field required'}")
	case body.Name == v.Model:
		v.refuse(w, http.StatusBadRequest, "InvalidUserInput", "The lora adapter '%s' conflicts with a served base model.",
			body.Name)
	case known:
		v.refuse(w, http.StatusBadRequest, "InvalidUserInput",
			"The lora adapter '%s' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to "+
				"True.", body.Name)
	case v.NoLora:
		v.refuse(w, http.StatusInternalServerError, "InternalServerError",
			"Call to add_lora method failed: Worker failed with error "+
				"'LoRA is not enabled. Use --enable-lora to enable LoRA.', please check the stack trace above for the root cause")
	default:
		if refused := v.load(body.Name, body.Path); refused == nil {
			fmt.Fprintf(w, "Success: LoRA adapter '%s' added successfully.", body.Name)
		} else if refused.missing {
			v.refuse(w, http.StatusNotFound, "NotFoundError", "%s", refused.message)
		} else {
			v.refuse(w, http.StatusInternalServerError, "InternalServerError",
				"Call to add_lora method failed: Worker failed with error '%s', please check the stack trace above for the root "+
					"cause", refused.message)
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
