package fakeserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// SGLang is a fake SGLang 0.5 server with --enable-lora, written from the sources of SGLang. Its model is a scripted
// policy.
type SGLang struct {
	Engine
	// Raw stands for the environment variable SGLANG_RETURN_ORIGINAL_LOGPROB.
	Raw bool
	// MemorySaver stands for the flag --enable-memory-saver.
	MemorySaver bool
	// NoTokenize makes the server a version without /tokenize.
	NoTokenize bool
	// NoSeeds makes the server a version without sampling_seed.
	NoSeeds bool

	weights atomic.Value // version of the weights, any text
}

// SGLangRequest is the body of a request to /generate.
type SGLangRequest struct {
	InputIDs []int32 `json:"input_ids"`
	Params   struct {
		MaxNewTokens int      `json:"max_new_tokens"`
		Temperature  float64  `json:"temperature"`
		TopK         int      `json:"top_k"`
		TopP         float64  `json:"top_p"`
		Stop         []string `json:"stop"`
		Seed         *int64   `json:"sampling_seed"`
	} `json:"sampling_params"`
	ReturnLogprob bool   `json:"return_logprob"`
	Adapter       string `json:"lora_path"`
}

// NewSGLang starts the server on a free port of the loopback. Close stops it.
func NewSGLang(p samplertest.Policy) *SGLang {
	s := &SGLang{Raw: true}
	s.weights.Store("default")
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
	s.start(p, "tiny", newMux(map[string]http.HandlerFunc{
		"GET /health":                     ok,
		"GET /get_server_info":            s.serverInfo,
		"GET /get_model_info":             s.modelInfo,
		"GET /get_load":                   s.load,
		"GET /v1/models":                  s.models,
		"POST /load_lora_adapter":         s.loadAdapter,
		"POST /unload_lora_adapter":       s.unloadAdapter,
		"POST /flush_cache":               ok,
		"POST /tokenize":                  s.serveTokenize,
		"POST /detokenize":                s.serveDetokenize,
		"POST /update_weight_version":     s.updateVersion,
		"POST /release_memory_occupation": s.occupation(true),
		"POST /resume_memory_occupation":  s.occupation(false),
		"POST /generate":                  s.generate,
	}))
	return s
}

func (s *SGLang) serverInfo(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{
		"version": "0.5.9", "model_path": s.Root, "enable_lora": !s.Fixed, "max_lora_rank": s.MaxRank,
		"max_loras_per_batch": 8, "max_running_requests": 64, "enable_memory_saver": s.MemorySaver,
	})
}

func (s *SGLang) modelInfo(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"model_path": s.Root, "tokenizer_path": s.Root, "is_generation": true,
		"weight_version": s.weights.Load(), "preferred_sampling_params": nil})
}

func (s *SGLang) updateVersion(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Version string `json:"new_version"`
	}{}
	if decode(w, r, &body) {
		s.weights.Store(body.Version)
		reply(w, http.StatusOK, map[string]any{"success": true, "message": "Weight version updated to " + body.Version,
			"new_version": body.Version})
	}
}

// occupation releases or resumes the memory. Like the real scheduler, the server dies if the memory already has that
// state.
func (s *SGLang) occupation(released bool) http.HandlerFunc {
	return func(http.ResponseWriter, *http.Request) {
		if s.Asleep() == released {
			s.Kill()
			panic(http.ErrAbortHandler)
		}
		s.sleep(released)
	}
}

func (s *SGLang) serveTokenize(w http.ResponseWriter, r *http.Request) {
	if s.NoTokenize {
		notFound(w, r)
		return
	}
	body := struct {
		Prompt string `json:"prompt"`
	}{}
	if decode(w, r, &body) {
		ids := s.tokenize(body.Prompt)
		reply(w, http.StatusOK, map[string]any{"tokens": ids, "count": len(ids), "max_model_len": s.Context})
	}
}

func (s *SGLang) serveDetokenize(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Tokens []int32 `json:"tokens"`
		Skip   *bool   `json:"skip_special_tokens"`
	}{}
	if !decode(w, r, &body) {
		return
	}
	if body.Skip == nil || *body.Skip {
		body.Tokens = slices.DeleteFunc(body.Tokens, func(id int32) bool { return id < samplertest.FirstByte })
	}
	reply(w, http.StatusOK, map[string]any{"text": s.Policy.Tokenizer.Decode(body.Tokens)})
}

func (s *SGLang) load(w http.ResponseWriter, _ *http.Request) {
	running, waiting := s.queue()
	reply(w, http.StatusOK, []any{map[string]any{"dp_rank": 0, "num_reqs": running + waiting,
		"num_waiting_reqs": waiting, "num_tokens": 0}})
}

func (s *SGLang) models(w http.ResponseWriter, _ *http.Request) { s.listModels(w, "sglang", s.Model) }

// replyToLoad answers a load or an unload. An empty message is a success.
func (s *SGLang) replyToLoad(w http.ResponseWriter, message string) {
	if message == "" {
		reply(w, http.StatusOK, map[string]any{"success": true, "error_message": nil, "loaded_adapters": map[string]any{}})
		return
	}
	reply(w, http.StatusBadRequest, map[string]any{"success": false, "error_message": message, "loaded_adapters": nil})
}

func (s *SGLang) loadAdapter(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Name string `json:"lora_name"`
		Path string `json:"lora_path"`
	}{}
	if !decode(w, r, &body) {
		return
	}
	if s.answeredWithLoadFault(w, body.Name, body.Path) {
		return
	}
	if _, known := s.adapter(body.Name); known {
		s.replyToLoad(w, fmt.Sprintf("Failed to load LoRA adapter %s because it is already loaded", body.Name))
		return
	}
	if refused := s.Engine.load(body.Name, body.Path); refused != nil {
		s.replyToLoad(w, refused.message)
		return
	}
	s.replyToLoad(w, "")
}

func (s *SGLang) unloadAdapter(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Name string `json:"lora_name"`
	}{}
	if !decode(w, r, &body) {
		return
	}
	if !s.unload(body.Name) {
		s.replyToLoad(w, fmt.Sprintf("LoRA with name %s does not exist.", body.Name))
		return
	}
	s.replyToLoad(w, "")
}

// refuse sends an error in SGLang's format.
func (s *SGLang) refuse(w http.ResponseWriter, status int, format string, args ...any) {
	reply(w, status, map[string]any{"error": map[string]any{"message": fmt.Sprintf(format, args...)}})
}

func (s *SGLang) generate(w http.ResponseWriter, r *http.Request) {
	var body SGLangRequest
	if !decode(w, r, &body) {
		return
	}
	name := body.Adapter
	if name == "" {
		name = s.Model
	}
	version, known := s.version(name)
	if !known {
		s.refuse(w, http.StatusBadRequest,
			"The following requested LoRA adapters are not loaded: {'%s'}\nLoaded adapters: [%s].",
			name, strings.Join(s.Adapters(), ", "))
		return
	}
	if !s.accepts(w, body) {
		return
	}
	q := body.request()
	fault, end := s.begin(name, q)
	defer end()
	busy := func() { s.refuse(w, http.StatusServiceUnavailable, "The request queue is full.") }
	if replacesAnswer(w, r, fault, s.closing, busy) {
		return
	}
	if fault == samplertest.FaultDie {
		s.Kill()
		return
	}
	c := s.Policy.Sample(version, q)
	s.spoil(&c, fault)
	if a := s.answer(body, c, fault); fault == samplertest.FaultCut {
		breakOff(w, a)
	} else {
		reply(w, http.StatusOK, a)
	}
}

// accepts checks a request. If the server refuses it, it sends an error and returns false.
func (s *SGLang) accepts(w http.ResponseWriter, body SGLangRequest) bool {
	vocabulary := s.Policy.Tokenizer.VocabSize()
	switch {
	case s.NoSeeds && body.Params.Seed != nil:
		s.refuse(w, http.StatusBadRequest, "SamplingParams.__init__() got an unexpected keyword argument 'sampling_seed'")
		return false
	case len(body.InputIDs)+body.Params.MaxNewTokens > s.Context:
		s.refuse(w, http.StatusBadRequest,
			"Requested token count exceeds the model's maximum context length of %d tokens.", s.Context)
		return false
	case slices.ContainsFunc(body.InputIDs, func(id int32) bool { return int(id) >= vocabulary }):
		s.refuse(w, http.StatusBadRequest, "The input_ids %v contains values greater than the vocab size (%d).",
			body.InputIDs, vocabulary)
		return false
	}
	return true
}

// request converts a body to a request to the script.
func (body SGLangRequest) request() sampler.Request {
	q := sampler.Request{
		Prompt: body.InputIDs, MaxTokens: body.Params.MaxNewTokens, Temperature: body.Params.Temperature,
		TopP: body.Params.TopP, TopK: max(body.Params.TopK, 0), Stop: body.Params.Stop,
	}
	if body.Params.Seed != nil {
		q.Seed = uint64(*body.Params.Seed)
	}
	return q
}

// answer returns the body of an answer of /generate.
func (s *SGLang) answer(body SGLangRequest, c sampler.Completion, fault samplertest.Fault) map[string]any {
	rows := []any{}
	for i, id := range c.IDs {
		if fault == samplertest.FaultWrongIDs {
			id++
		}
		value := float64(c.Logprobs[i])
		if t := body.Params.Temperature; !s.Raw && t > 0 {
			value /= t
		}
		rows = append(rows, []any{value, id, nil})
	}
	if fault == samplertest.FaultNaN {
		rows[len(rows)-1] = []any{nil, c.IDs[len(c.IDs)-1], nil}
	}
	meta := map[string]any{
		"id": "0", "prompt_tokens": len(body.InputIDs), "completion_tokens": len(c.IDs), "cached_tokens": 0,
		"finish_reason": map[string]any{"type": string(c.Finish)},
	}
	if body.ReturnLogprob && fault != samplertest.FaultNoLogprobs {
		meta["output_token_logprobs"] = rows
	}
	return map[string]any{"text": c.Text, "output_ids": c.IDs, "meta_info": meta}
}
