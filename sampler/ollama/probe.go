package ollama

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/ollama/ollama/api"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
)

// oldest is the first version with log-probs.
var oldest = [3]int{0, 12, 11}

// probe finds the server's capabilities. It fails if a required one is missing.
func (b *Backend) probe(ctx context.Context) error {
	var version struct {
		Version string `json:"version"`
	}
	if err := b.client.call(ctx, "GET", "/api/version", nil, &version); err != nil {
		return fmt.Errorf("%w\n"+
			"  hint: start it with `ollama serve`, and check its address in sampler.ollama.url", err)
	}
	if tooOld(version.Version) {
		return fmt.Errorf("version %s is too old\n"+
			"  hint: update Ollama to %d.%d.%d or later", version.Version, oldest[0], oldest[1], oldest[2])
	}
	model, err := b.show(ctx, b.cfg.Model)
	if err != nil {
		return b.explain(ctx, err)
	}
	if adapters(model.Modelfile) > 0 {
		return fmt.Errorf("model %s has an adapter\n"+
			"  hint: set sampler.served_model_name to the model that it was created from", b.cfg.Model)
	}
	b.content = content(model.Modelfile)
	trained := contextLength(model.ModelInfo)
	switch {
	case b.cfg.NumCtx == 0 && trained > 0:
		b.cfg.NumCtx = min(trained, defaultContext)
	case b.cfg.NumCtx == 0:
		b.cfg.NumCtx = defaultContext
	case trained > 0 && b.cfg.NumCtx > trained:
		return fmt.Errorf("model %s was trained with a context of %d tokens, %d are configured\n"+
			"  hint: lower sampler.max_model_len", b.cfg.Model, trained, b.cfg.NumCtx)
	}
	b.caps = sampler.Capabilities{
		Server: "ollama", Version: version.Version, Adapters: "create", AdapterFormat: "gguf",
		MaxResident: 1, ContextLength: b.cfg.NumCtx, Parallel: b.cfg.MaxInFlight, Replicas: 1, Hints: hints(),
		// A reply does not say whether a stop string or the end token ended it.
		StopStrings: b.cfg.Codec == nil,
	}
	return nil
}

func hints() map[string]string {
	return map[string]string{
		"ids_in": "Ollama does not accept ids; prompts are sent as text and checked with the " +
			"trainer's tokenizer",
		"ids_out": "Ollama does not return ids; let the trainer's tokenizer encode its text, or " +
			"choose sampler.backend llamacpp, vllm or sglang",
		"logprobs": "Ollama's log-probs belong to pieces of text and are incomplete; let the trainer recompute them, or " +
			"choose sampler.backend llamacpp, vllm or sglang",
		"adapter_format": "the trainer must write adapters as GGUF",
		"max_resident": "Ollama has one adapter of a base model loaded; requests of two versions take turns, " +
			"with a reload between them",
		"stop_strings": "Ollama does not say whether a stop string or the end token ended a reply, which a " +
			"trainer must know; choose sampler.backend llamacpp, vllm or sglang",
		"context_length": "raise sampler.max_model_len",
		"tokenizer": "serve the model that model.path names: import it with `ollama create`, and name it in " +
			"sampler.served_model_name",
		sampler.HintLowPrecision: "serve a model that is not quantised, and start Ollama without OLLAMA_KV_CACHE_TYPE and " +
			"OLLAMA_FLASH_ATTENTION",
		sampler.HintStaleCache: "restart Ollama",
	}
}

// tooOld says whether a version is below oldest. Development builds have version
// 0.0.0 or another text.
func tooOld(version string) bool {
	var v [3]int
	if _, err := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d.%d", &v[0], &v[1], &v[2]); err != nil ||
		v == [3]int{} {
		return false
	}
	for i := range v {
		if v[i] != oldest[i] {
			return v[i] < oldest[i]
		}
	}
	return false
}

func (b *Backend) show(ctx context.Context, model string) (out api.ShowResponse, err error) {
	err = b.client.try(ctx, func() error {
		return b.client.call(ctx, "POST", "/api/show", api.ShowRequest{Model: model}, &out)
	}, nil)
	return out, err
}

// explain lists the models of the server if it does not have the model.
func (b *Backend) explain(ctx context.Context, err error) error {
	if jsonhttp.Status(err) != http.StatusNotFound {
		return fmt.Errorf("model %s: %w", b.cfg.Model, err)
	}
	var list api.ListResponse
	if err := b.client.call(ctx, "GET", "/api/tags", nil, &list); err != nil {
		return fmt.Errorf("list models: %w", err)
	}
	var names []string
	for _, m := range list.Models {
		names = append(names, m.Name)
	}
	has := "nothing"
	if len(names) > 0 {
		has = strings.Join(names, ", ")
	}
	return fmt.Errorf("the server has no model %q; it has %s\n"+
		"  hint: `ollama pull %s`, or set sampler.served_model_name", b.cfg.Model, has, b.cfg.Model)
}

// contextLength returns the context that the model was trained with; 0: unknown.
func contextLength(info map[string]any) int {
	arch, _ := info["general.architecture"].(string)
	length, _ := info[arch+".context_length"].(float64)
	return int(length)
}

// Content identifies what the base model's name stands for on the server: its weights by
// their checksum, its template and its parameters.
func (b *Backend) Content() string { return b.content }

// content is a checksum of a Modelfile without comments and without the folders of its
// files, whose names are checksums.
func content(modelfile string) string {
	sum := sha256.New()
	for line := range strings.Lines(modelfile) {
		word, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case strings.HasPrefix(word, "#"):
			continue
		case word == "FROM":
			line = word + " " + file[strings.LastIndexAny(file, `/\`)+1:] + "\n"
		}
		sum.Write([]byte(line))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// adapters counts the adapters in a Modelfile.
func adapters(modelfile string) int {
	n := 0
	for line := range strings.Lines(modelfile) {
		if strings.HasPrefix(line, "ADAPTER ") {
			n++
		}
	}
	return n
}
