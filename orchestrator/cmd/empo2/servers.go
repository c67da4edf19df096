package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/llamacpp"
	"github.com/empo2/empo2/sampler/ollama"
	"github.com/empo2/empo2/sampler/openai"
	"github.com/empo2/empo2/sampler/sglang"
	"github.com/empo2/empo2/sampler/vllm"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// An opening is what a backend is opened with.
type opening struct {
	config config.Config
	tools  tools
	codec  *trainerCodec // nil where nothing is trained
	event  func(kind, detail string)
	log    zerolog.Logger
}

// alias is what the versions of this run are called on a server that others
// may use too.
func (o opening) alias() string { return "empo2-" + o.config.Run.Name }

// serverKey is the API key of a server that asks for one.
func serverKey() string { return os.Getenv("EMPO2_SERVER_KEY") }

// served is an open backend with what its prompts are made of.
type served struct {
	sampler.Backend
	// Tokenizer and Control are nil for servers of text: then episodes are
	// played on messages.
	tokenizer chat.Tokenizer
	control   chat.ControlTokens
	renderer  chat.Renderer // nil if the server's template is not to be had
	// retokenised: ids and log-probs are made by the trainer.
	retokenised bool
	sleeper     sampler.Sleeper // nil: the server stays awake
}

// A backend is an inference server by its name in config.toml.
type backend struct {
	open func(context.Context, opening) (served, error)
	// codec: prompts are made with the trainer's tokenizer, which must be there
	// before the server is asked.
	codec bool
	// launch is the command that starts such a server, for people; nil: empo2
	// starts it.
	launch func(c config.Config, model string) string
}

var backends = map[string]backend{
	"llamacpp": {open: openLlamaCPP},
	"vllm": {open: openVLLM, codec: true,
		launch: func(c config.Config, model string) string { return vllm.LaunchLine(vllmLaunch(c, model)) }},
	"sglang": {open: openSGLang, codec: true,
		launch: func(c config.Config, model string) string {
			return sglang.LaunchLine(model, c.Trainer.Rank, residentAdapters)
		}},
	"ollama": {open: openOllama, codec: true,
		launch: func(c config.Config, _ string) string {
			return fmt.Sprintf("OLLAMA_NUM_PARALLEL=%d OLLAMA_KEEP_ALIVE=-1 ollama serve", c.Sampler.Concurrency)
		}},
	"openai": {open: openOpenAI},
}

// residentAdapters are computed with at once: the newest, the one before while
// its last request ends, and two in reserve.
const residentAdapters = 4

func openLlamaCPP(ctx context.Context, o opening) (served, error) {
	all := o.config.Sampler
	s, threads := all.LlamaCPP, cmp.Or(all.LlamaCPP.Threads, runtime.NumCPU())
	b, err := llamacpp.Open(ctx, llamacpp.Config{
		Python: o.tools.python, Binary: s.Binary, Args: s.Args, BaseGGUF: o.tools.gguf,
		ContextPerSlot: o.config.ContextTokens(o.tools.context), Slots: all.Concurrency,
		Threads: threads, BatchThreads: threads, TemplateArgs: all.TemplateArgs,
		ExactLogprobs: s.ExactLogprobs, RequestTimeout: seconds(all.TimeoutSeconds), Log: o.log,
		OnRestart: func(p sampler.Policy) { o.event("server restart", p.Name) },
	})
	if err != nil {
		return served{}, err
	}
	return served{Backend: b, tokenizer: b, control: b, renderer: b}, nil
}

func vllmLaunch(c config.Config, model string) vllm.LaunchConfig {
	s := c.Sampler.VLLM
	return vllm.LaunchConfig{
		Command: s.Launch, Python: s.Python, CPU: !inspect.Probe{}.HasGPU(), Model: model, Replicas: s.Replicas,
		Context: c.ContextTokens(inspect.Context(model)), MaxRank: c.Trainer.Rank, MaxResident: residentAdapters,
		GPUMemoryUtilization: s.GPUMemoryUtilization, Exact: s.ExactLogprobs, Sleep: s.Sleep,
	}
}

func openVLLM(ctx context.Context, o opening) (served, error) {
	all := o.config.Sampler
	s := all.VLLM
	cfg := vllm.Config{
		URLs: s.URLs, Model: all.ServedModelName, Alias: o.alias(), APIKey: serverKey(), CacheSalt: s.CacheSalt,
		Tolerance: all.CanaryTolerance, Sleep: s.Sleep,
		RequestTimeout: seconds(all.TimeoutSeconds), LoadTimeout: seconds(all.LoadTimeoutSeconds),
		MaxInFlight: all.Concurrency,
		OnReturn:    func(url string) { o.event("replica returned", url) }, Log: o.log,
		Launch: vllmLaunch(o.config, cmp.Or(o.tools.model, o.config.Model.Path)),
	}
	out := served{}
	if o.codec != nil {
		cfg.Codec, out.renderer = o.codec, o.codec
	}
	b, err := vllm.Open(ctx, cfg)
	if err != nil {
		return served{}, err
	}
	out.Backend, out.tokenizer, out.control = b, b, b
	if s.Sleep {
		err = out.mustSleep(b, "sampler.vllm.sleep",
			"start vLLM on a GPU with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1")
	}
	return out, err
}

// sleepy is a server that may be able to sleep.
type sleepy interface {
	sampler.Backend
	sampler.Sleeper
	CanSleep() bool
}

// mustSleep lets the server sleep between steps, or refuses one that cannot.
func (s *served) mustSleep(b sleepy, key, hint string) error {
	if !b.CanSleep() {
		return errors.Join(&config.Error{Place: key, Msg: "the server, as launched, cannot give its memory back",
			Hint: hint}, b.Close())
	}
	s.sleeper = b
	return nil
}

func openSGLang(ctx context.Context, o opening) (served, error) {
	all := o.config.Sampler
	s := all.SGLang
	if o.codec == nil {
		return served{},
			errors.New("sglang: prompts are made with the trainer's tokenizer, but nothing is trained\n  hint: sampler.backend = \"openai\" speaks with the same server")
	}
	b, err := sglang.Open(ctx, sglang.Config{
		URLs: s.URLs, Model: all.ServedModelName, Alias: o.alias(), APIKey: serverKey(), Codec: o.codec,
		Tolerance: all.CanaryTolerance, Sleep: s.Sleep,
		RequestTimeout: seconds(all.TimeoutSeconds), LoadTimeout: seconds(all.LoadTimeoutSeconds),
		MaxInFlight: all.Concurrency,
		OnReturn:    func(url string) { o.event("replica returned", url) }, Log: o.log,
		Launch: sglang.LaunchConfig{Command: s.Launch},
	})
	if err != nil {
		return served{}, err
	}
	out := served{Backend: b, tokenizer: b, control: b, renderer: o.codec}
	if s.Sleep {
		err = out.mustSleep(b, "sampler.sglang.sleep", "start SGLang with --enable-memory-saver")
	}
	return out, err
}

// openOllama speaks in messages where nothing is trained.
func openOllama(ctx context.Context, o opening) (served, error) {
	all := o.config.Sampler
	cfg := ollama.Config{
		URL: all.Ollama.URL, Model: all.ServedModelName, Alias: o.alias(), NumCtx: ollamaContext(o),
		Threads: all.Ollama.Threads, MaxInFlight: all.Concurrency, RequestTimeout: seconds(all.TimeoutSeconds),
		PublishTimeout: seconds(all.LoadTimeoutSeconds), Logprobs: true, Log: o.log,
	}
	if o.codec == nil { // else the trainer renders the template
		cfg.TemplateArgs = all.TemplateArgs
	}
	out := served{}
	if o.codec != nil {
		cfg.Codec = o.codec
		out = served{tokenizer: o.codec, control: o.codec, renderer: o.codec, retokenised: true}
		template, err := out.newTemplate(ctx, o.config)
		if err != nil {
			return served{}, err
		}
		if cfg.EndToken, err = o.codec.Detokenize(ctx, []int32{template.EOS()}); err != nil {
			return served{}, err
		}
	}
	b, err := ollama.Open(ctx, cfg)
	if err != nil {
		return served{}, err
	}
	out.Backend = b
	return out, nil
}

// ollamaContext is what the run needs if the model's limit is known; else
// Ollama chooses.
func ollamaContext(o opening) int {
	if o.config.Sampler.MaxModelLen == 0 && o.tools.context == 0 {
		return 0
	}
	return o.config.ContextTokens(o.tools.context)
}

func openOpenAI(ctx context.Context, o opening) (served, error) {
	s := o.config.Sampler
	b, err := openai.Open(ctx, openai.Config{
		URL: s.OpenAI.URL, Model: s.ServedModelName, APIKey: serverKey(), SystemRole: s.OpenAI.SystemRole,
		TemplateArgs:   s.TemplateArgs,
		RequestTimeout: seconds(s.TimeoutSeconds), MaxInFlight: s.Concurrency, Log: o.log,
	})
	if err != nil {
		return served{}, err
	}
	return served{Backend: b}, nil
}

// A trainerCodec is the trainer's tokenizer and template for the sampler.
type trainerCodec struct{ *trainerbridge.Codec }

// Render writes messages in the model's own chat template.
func (c trainerCodec) Render(ctx context.Context, messages []chat.Message, generation bool) (string, error) {
	texts := make([]trainerbridge.TextMessage, len(messages))
	for i, m := range messages {
		texts[i] = trainerbridge.TextMessage{Role: m.Role, Content: m.Text()}
	}
	text, err := c.Codec.Render(ctx, texts, generation)
	var refused *trainerbridge.RequestError
	if errors.As(err, &refused) && refused.Category == trainerbridge.CategoryUser {
		return "", fmt.Errorf("%w: %w", chat.ErrRefused, err)
	}
	return text, err
}

// trains reports whether a run changes weights, for which it has a trainer.
func trains(c config.Config) bool { return c.Algorithm.Name != "adapt" }

// needs is what a run with this configuration asks of its server.
func needs(c config.Config, s served, can sampler.Capabilities) sampler.Requirements {
	n := sampler.Requirements{
		Context: max(c.Rollout.MaxTokens, c.Reflection.MaxTokens) + shortestPrompt, Stop: len(c.Rollout.Stop) > 0,
	}
	if !trains(c) {
		return n
	}
	n.IDs, n.Logprobs, n.Adapters = !s.retokenised, !s.retokenised, true
	n.Formats, n.Rank = c.Sampler.AdapterFormats(), c.Trainer.Rank
	if can.Adapters == "runtime" {
		n.Resident = 2 // the new version is proved beside the old one
	}
	return n
}

// shortestPrompt is how many tokens are left for a prompt at least.
const shortestPrompt = 64

// serverError is a fault of the inference server or of what it was started with.
type serverError struct{ err error }

func (e *serverError) Error() string { return e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// openServer opens the backend that the configuration names and refuses a
// server that cannot do what the run needs.
func openServer(ctx context.Context, o opening) (served, error) {
	s, err := backends[o.config.Sampler.Backend].open(ctx, o)
	if err != nil {
		return served{}, &serverError{err}
	}
	can, err := s.Capabilities(ctx)
	if err == nil {
		err = needs(o.config, s, can).Check(can)
	}
	if err != nil {
		return served{}, errors.Join(&serverError{fmt.Errorf("backend %s: %w", o.config.Sampler.Backend, err)},
			s.Close())
	}
	return s, nil
}

// newTemplate is the template of the conversation; nil for servers of text.
func (s served) newTemplate(ctx context.Context, c config.Config) (*chat.Template, error) {
	if s.tokenizer == nil {
		return nil, nil
	}
	name := c.Sampler.Template
	if name == chat.TemplateAuto && s.renderer == nil {
		return nil, &config.Error{Place: "sampler.template", Msg: "the server does not tell its template",
			Hint: "name it, for example --set sampler.template=chatml"}
	}
	tokenizer := chat.CachedTokenizer(s.tokenizer, 1<<14)
	t, err := chat.NewTemplate(ctx, name, tokenizer, s.control, s.renderer)
	if err != nil {
		return nil, err
	}
	if c.Sampler.Thinking == string(chat.ThinkingStrip) {
		return t, t.CanStrip()
	}
	return t, nil
}

// sampleTimeout bounds a request with its wait for a place, behind all the
// episodes and reflections that may stand before it; the backend's own
// deadline begins when the request is sent.
func sampleTimeout(c config.Config) time.Duration {
	queue := 2 * c.Rollout.Concurrency / (c.Sampler.Concurrency * c.Sampler.Replicas())
	return seconds(c.Sampler.TimeoutSeconds * float64(2+queue))
}
