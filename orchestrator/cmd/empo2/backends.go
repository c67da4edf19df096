package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/forecast"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/llamacpp"
	"github.com/empo2/empo2/sampler/ollama"
	"github.com/empo2/empo2/sampler/openai"
	"github.com/empo2/empo2/sampler/sglang"
	"github.com/empo2/empo2/sampler/vllm"
)

// opening has what is needed to open a backend or an environment.
type opening struct {
	config config.Config
	tools  tools
	codec  *trainerCodec // the trainer's tokenizer; nil: nothing is trained
	// untrained means that nothing is trained on the episodes.
	untrained bool
	// serverText means that the server's own tokenizer is used, because no trainer runs.
	serverText bool
	event      func(kind, detail string) // records an event of a child process; nil: none is recorded
	log        zerolog.Logger
}

// budget returns how often a child process may be restarted. Each has the same
// budget.
func (o opening) budget() process.Budget { return process.NewBudget(o.config.Trainer.Restarts) }

// restarted returns a function that records the restarts of a kind of child
// process.
func (o opening) restarted(child string) func(name string, why error) {
	return func(name string, why error) {
		if o.event != nil {
			o.event(child+" restart", name+": "+why.Error())
		}
	}
}

// alias is the prefix of this run's versions on a server. Other runs may use the
// same server.
func (o opening) alias() string { return "empo2-" + serverName(o.config.Run.Name) }

// serverName returns the name of a run for servers, which allow fewer characters
// than folders. Different names stay different.
func serverName(run string) string {
	name := strings.Map(func(r rune) rune {
		if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-", r)) {
			return r
		}
		return '-'
	}, run)
	if name == run && len(run) <= 64 {
		return run
	}
	sum := sha256.Sum256([]byte(run))
	return fmt.Sprintf("%.48s-%x", name, sum[:4])
}

// serverKey returns the API key of the server, or "" if it needs none.
func serverKey() string { return os.Getenv("EMPO2_SERVER_KEY") }

// served is an open backend with the tokenizer and template for its prompts.
type served struct {
	sampler.Backend
	// The tokenizer and control are nil if the server takes messages instead of
	// token ids.
	tokenizer chat.Tokenizer
	control   chat.ControlTokens
	renderer  chat.Renderer // nil: the model's own chat template is unavailable
	decoder   decoder       // nil: the text of a token is unavailable
	// retokenized means that the server takes text, and that ids and log-probs
	// come from the trainer.
	retokenized bool
	sleeper     sampler.Sleeper // nil: the server never sleeps
}

// A backend opens one kind of inference server.
type backend struct {
	open func(context.Context, opening) (served, error)
	// codec means that prompts are tokenized by the trainer, which must run
	// before the backend is opened.
	codec bool
	// noText says why prompts cannot be tokenized without the trainer. Empty: they can, by
	// the server. Nil: the server has no tokenizer for others.
	noText func(c config.Config) string
	// launch returns the command with which users start such a server. Nil:
	// empo2 always starts the server itself, or it is a remote service.
	launch func(c config.Config, model string) string
	// memory predicts what the servers need. Nil: empo2 starts none, or does not
	// know.
	memory func(c config.Config, m inspect.Model, machine inspect.Machine) forecast.Server
}

// backends are the inference servers by their name in sampler.backend.
var backends = map[string]backend{
	"llamacpp": {open: openLlamaCPP, memory: predictLlamaCPP},
	"vllm": {open: openVLLM, codec: true, memory: predictVLLM, noText: func(config.Config) string { return "" },
		launch: func(c config.Config, model string) string { return vllm.LaunchLine(vllmLaunch(c, model)) }},
	"sglang": {open: openSGLang, codec: true,
		noText: func(c config.Config) string {
			if c.Sampler.Template != chat.TemplateAuto {
				return ""
			}
			return "SGLang tokenizes texts, but does not return its chat template; with sampler.template = NAME it suffices"
		},
		launch: func(c config.Config, model string) string {
			return sglang.LaunchLine(model, c.Trainer.Rank, residentAdapters)
		}},
	"ollama": {open: openOllama, codec: true,
		noText: func(config.Config) string { return "Ollama has no request that tokenizes" },
		launch: func(c config.Config, _ string) string {
			return fmt.Sprintf("OLLAMA_NUM_PARALLEL=%d OLLAMA_KEEP_ALIVE=-1 ollama serve", c.Sampler.Concurrency)
		}},
	"openai": {open: openOpenAI},
}

// residentAdapters is how many adapters a server keeps loaded: the newest one,
// the previous one while its last requests end, and two in reserve.
const residentAdapters = 4

func openLlamaCPP(ctx context.Context, o opening) (served, error) {
	all := o.config.Sampler
	s := all.LlamaCPP
	threads := cmp.Or(s.Threads, max(1, runtime.NumCPU()/s.Replicas))
	b, err := llamacpp.Open(ctx, llamacpp.Config{
		Python: o.tools.python, Binary: s.Binary, Args: s.Args, Inherit: s.Env, BaseGGUF: o.tools.gguf,
		Replicas: s.Replicas, Devices: s.Devices,
		ContextPerSlot: o.config.ContextTokens(o.tools.context), Slots: all.Concurrency,
		Threads: threads, BatchThreads: threads, TemplateArgs: all.TemplateArgs,
		ExactLogprobs: s.ExactLogprobs, NoPromptCache: o.config.Run.Repeatable,
		RequestTimeout: seconds(all.TimeoutSeconds), Log: o.log,
		Budget: o.budget(), OnRestart: o.restarted("server"),
	})
	if err != nil {
		return served{}, err
	}
	return served{Backend: b, tokenizer: b, control: b, renderer: b, decoder: b}, nil
}

func vllmLaunch(c config.Config, model string) vllm.LaunchConfig {
	s := c.Sampler.VLLM
	return vllm.LaunchConfig{
		Command: s.Launch, Python: s.Python, CPU: !inspect.Probe{}.HasGPU(), Model: model, Replicas: s.Replicas,
		Devices: s.Devices,
		Context: c.ContextTokens(inspect.Context(model)), MaxRank: c.Trainer.Rank, MaxResident: residentAdapters,
		GPUMemoryUtilization: s.GPUMemoryUtilization, Exact: s.ExactLogprobs, Sleep: s.Sleep,
		Inherit: s.Env, Budget: process.NewBudget(c.Trainer.Restarts),
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
		OnReturn:    func(url string) { o.event("replica returned", url) }, OnRestart: o.restarted("server"), Log: o.log,
		Launch: vllmLaunch(o.config, cmp.Or(o.tools.model, o.config.Model.Path)),
	}
	out := served{}
	if o.codec != nil {
		cfg.Codec, out.renderer, out.decoder = o.codec, o.codec, o.codec
	}
	b, err := vllm.Open(ctx, cfg)
	if err != nil {
		return served{}, err
	}
	out.Backend, out.tokenizer, out.control = b, b, b
	if own := b.ServerText(); own != nil {
		own.TemplateArgs = all.TemplateArgs
		out.renderer, out.decoder = own, own
	}
	if s.Sleep {
		err = out.mustSleep(b, "sampler.vllm.sleep",
			"start vLLM on a GPU with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1")
	}
	return out, err
}

// maybeSleeper is a server that can sleep if it was started with the right flags.
type maybeSleeper interface {
	sampler.Backend
	sampler.Sleeper
	CanSleep() bool
}

// mustSleep makes the server sleep between steps. It returns an error if the
// server cannot sleep.
func (s *served) mustSleep(b maybeSleeper, key, hint string) error {
	if !b.CanSleep() {
		const msg = "the server cannot sleep with the flags that it was started with"
		return errors.Join(&config.Error{Place: key, Msg: msg, Hint: hint}, b.Close())
	}
	s.sleeper = b
	return nil
}

func openSGLang(ctx context.Context, o opening) (served, error) {
	all := o.config.Sampler
	s := all.SGLang
	if o.codec == nil && !o.serverText {
		return served{}, errors.New("sglang: prompts need the trainer's tokenizer, but nothing is trained\n" +
			"  hint: sampler.backend = \"openai\" works with the same server")
	}
	out := served{}
	cfg := sglang.Config{
		URLs: s.URLs, Model: all.ServedModelName, Alias: o.alias(), APIKey: serverKey(),
		Tolerance: all.CanaryTolerance, Sleep: s.Sleep,
		RequestTimeout: seconds(all.TimeoutSeconds), LoadTimeout: seconds(all.LoadTimeoutSeconds),
		MaxInFlight: all.Concurrency,
		OnReturn:    func(url string) { o.event("replica returned", url) }, OnRestart: o.restarted("server"), Log: o.log,
		Launch: sglang.LaunchConfig{Command: s.Launch, Inherit: s.Env, Budget: o.budget()},
	}
	if len(s.Devices) > 0 {
		cfg.Launch.Inherit = append(slices.Clone(s.Env), "CUDA_VISIBLE_DEVICES="+s.Devices[0])
	}
	if o.codec != nil {
		cfg.Codec, out.renderer, out.decoder = o.codec, o.codec, o.codec
	}
	b, err := sglang.Open(ctx, cfg)
	if err != nil {
		return served{}, err
	}
	out.Backend, out.tokenizer, out.control = b, b, b
	if own := b.ServerText(); own != nil {
		out.decoder = own
	}
	if s.Sleep {
		err = out.mustSleep(b, "sampler.sglang.sleep", "start SGLang with --enable-memory-saver")
	}
	return out, err
}

// openOllama sends text that the trainer has rendered. If nothing is trained, it
// sends messages.
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
		out = served{tokenizer: o.codec, control: o.codec, renderer: o.codec, decoder: o.codec, retokenized: true}
		template, err := out.newTemplate(ctx, o.config)
		if err != nil {
			return served{}, err
		}
		if template.EOS() < 0 {
			return served{}, &config.Error{Place: "sampler.template",
				Msg:  "no control token ends the policy's message in the model's chat template",
				Hint: "ollama needs one: name a template that has one, or use another sampler.backend"}
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

// ollamaContext returns the context length that the run needs, or 0 if neither
// the user nor the model sets a limit. Ollama then chooses it.
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
		OnRefusal: func(what string) {
			if o.event != nil {
				o.event("server parameter", what)
			}
		},
	})
	if err != nil {
		return served{}, err
	}
	return served{Backend: b}, nil
}
