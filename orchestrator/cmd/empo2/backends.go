package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

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
