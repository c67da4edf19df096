package main

import (
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/forecast"
)

// A choice is one key of the new file with the reason for its value.
type choice struct {
	key, value, why string // value is TOML
}

// A planner chooses the keys of a new configuration.
type planner struct {
	subject
	env, algorithm string
	gpus           int // to use
	profile        string
	profileWhy     string
	choices        []choice
	notes          []string // for the summary
}

func newPlanner(s subject, env, algorithm string) *planner {
	return &planner{subject: s, env: env, algorithm: algorithm}
}

func (p *planner) trains() bool { return p.algorithm != "adapt" }

func (p *planner) set(key, value, why string) {
	p.choices = append(p.choices, choice{key, value, why})
}

// choose makes all choices.
func (p *planner) choose() {
	p.chooseProfile()
	p.set("model.path", config.Quote(p.model.Path), p.describeModel())
	p.set("run.name", config.Quote(p.runName()), "model, environment and algorithm; each run needs its own name")
	p.chooseEnvironment()
	if p.algorithm != "empo2" {
		p.set("algorithm.name", config.Quote(p.algorithm), "given with --algorithm")
	}
	p.chooseOptimizer()
	p.chooseEvaluation()
	p.chooseSampler()
	p.chooseGPUs()
	p.noteMemory()
}

// runName is, for example, "SmolLM2-135M-vault-empo2".
func (p *planner) runName() string {
	model := strings.TrimSuffix(filepath.Base(p.model.Path), ".gguf")
	model = strings.Trim(notInNames.ReplaceAllString(model, "-"), "-")
	return strings.TrimPrefix(strings.Join([]string{model, p.env, p.algorithm}, "-"), "-")
}

// notInNames is what a folder's name should not hold: it appears in commands.
var notInNames = regexp.MustCompile(`[^\pL\pN._-]+`)

// oneLine is a text for a comment, without the line breaks that would end it.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

const gigabyte = 1e9

// chooseProfile chooses the profile by the memory of the first GPU.
func (p *planner) chooseProfile() {
	gpus := p.machine.GPUs
	if len(gpus) == 0 {
		p.profile, p.profileWhy = "cpu", "no GPU was found"
		return
	}
	memory := float64(gpus[0].Memory)
	switch {
	case memory >= 70*gigabyte:
		p.profile, p.profileWhy = "gpu-80gb", describeGPU(gpus[0])
	case memory >= 20*gigabyte:
		p.profile, p.profileWhy = "gpu-24gb", describeGPU(gpus[0])
	case memory > 0:
		p.profile, p.profileWhy = "gpu-24gb", describeGPU(gpus[0])+": the smallest profile with a GPU"
		p.notes = append(p.notes,
			"the GPU is smaller than the profile expects: lower rollout.concurrency if memory runs out")
	default:
		p.profile, p.profileWhy = "gpu-24gb", describeGPU(gpus[0])+" of unknown memory: the smallest profile with a GPU"
	}
}

// chooseEnvironment chooses the paper's prompts if the environment has some, and
// an easy vault.
func (p *planner) chooseEnvironment() {
	if p.env != "vault" {
		p.set("env.name", config.Quote(p.env), "given with --env")
	}
	switch p.env {
	case "vault":
		p.set("env.name", config.Quote(p.env), "built in: it needs no data and no other program")
		why := "an easy game, because the model has never seen it"
		p.set("env.vault.doors", "2", why)
		p.set("env.vault.levers", "4", why)
		p.set("env.vault.score", `"partial"`,
			"each opened door counts, so the first episodes already teach something")
	case "scienceworld":
		p.set("prompt.template", `"recipe"`, "the paper's prompts for ScienceWorld")
	case "webshop":
		p.set("prompt.template", `"recipe"`, "prompts in the paper's form for WebShop")
		p.set("rollout.max_turns", "15", "the shop's own limit")
	}
}

// chooseOptimizer chooses the learning rate by the size of the model. Small
// models need a larger one.
func (p *planner) chooseOptimizer() {
	if !p.trains() {
		return
	}
	n := float64(p.model.Parameters)
	switch {
	case n == 0:
	case n < 0.3e9:
		p.set("optimizer.learning_rate", "5e-4", "this worked for 135 M parameters with LoRA")
	case n < 1e9:
		p.set("optimizer.learning_rate", "1e-4", "between 5e-4 for 0.1 B parameters and 1e-5 for 7 B")
	case n < 5e9:
		p.set("optimizer.learning_rate", "2e-5", "between 5e-4 for 0.1 B parameters and 1e-5 for 7 B")
	default:
		p.set("optimizer.learning_rate", "1e-5", "ten times the paper's 1e-6 for full fine-tuning, as LoRA needs more")
	}
}

// chooseEvaluation keeps the evaluation short that comes before the first step, if there
// is no GPU.
func (p *planner) chooseEvaluation() {
	if p.profile == "cpu" && p.trains() {
		p.set("eval.episodes", "16", "the base model is evaluated before the first step, which should not wait long")
	}
}

// chooseSampler sets the backend and what the model's chat template needs.
func (p *planner) chooseSampler() {
	why := map[string]string{
		"llamacpp": "llama-server is installed with empo2's Python environment and needs no GPU",
		"vllm":     "the fastest server on a GPU; empo2 starts it",
	}[p.backend]
	if p.given || why == "" {
		why = "given with --backend"
	}
	p.chooseConcurrency()
	p.set("sampler.backend", config.Quote(p.backend), why)
	if p.backend != "openai" && !p.model.ChatTemplate {
		p.set("sampler.template", `"chatml"`,
			"the tokenizer has no chat template; choose the one that the model was trained with, if any")
		p.notes = append(p.notes, "the model has no chat template: a base model rarely follows instructions")
	}
	if p.model.Thinking {
		p.set("sampler.template_args", "{enable_thinking = false}",
			"the chat template has this argument, and max_tokens leaves no room for thoughts")
	}
	if p.backend == "vllm" {
		p.notes = append(p.notes,
			`vLLM must be installed: pip install vllm, or set sampler.vllm.python or sampler.vllm.urls`)
	}
}

// mostEpisodes is the concurrency of llama-server that init chooses if memory
// suffices.
const mostEpisodes = 8

// chooseConcurrency chooses a concurrency for which trainer and llama-server fit
// into three quarters of the memory.
func (p *planner) chooseConcurrency() {
	if p.backend != "llamacpp" || p.model.CacheValues == 0 || p.machine.Memory == 0 {
		return
	}
	var f forecast.Forecast
	n := mostEpisodes
	for ; n > 0; n-- {
		f = p.forecast(n)
		if n == 1 || f.Needed <= p.machine.Memory*3/4 {
			break
		}
	}
	p.set("rollout.concurrency", strconv.Itoa(n), fmt.Sprintf("%d × a cache of %s (%s) and %.1f GB for the rest, "+
		"of %.1f GB", f.Server.Processes, forecast.GB(f.Server.Cache), f.Server.CacheText,
		float64(f.Needed-int64(f.Server.Processes)*f.Server.Cache)/gigabyte, float64(p.machine.Memory)/gigabyte))
	for _, problem := range f.Problems {
		p.notes = append(p.notes, problem.What+": "+problem.Remedy)
	}
}

// hardware is the machine for derived values.
func (p *planner) hardware() config.Machine {
	return config.Machine{GPU: len(p.machine.GPUs) > 0,
		Architecture: func(string) string { return p.model.Architecture }}
}

// forecast predicts the run under the profile with so many episodes at the same
// time; 0: the profile's. What is free at the moment does not count. It is zero
// if keys are missing that the user must set.
func (p *planner) forecast(concurrency int) forecast.Forecast {
	sets := []string{"sampler.backend=" + p.backend, "algorithm.name=" + p.algorithm,
		"model.path=" + config.Quote(p.model.Path)}
	for _, c := range p.choices { // where the processes are
		if strings.HasSuffix(c.key, ".devices") || strings.HasSuffix(c.key, ".replicas") ||
			strings.HasPrefix(c.key, "trainer.") || strings.HasPrefix(c.key, "sampler.vllm.") {
			sets = append(sets, c.key+"="+c.value)
		}
	}
	if concurrency > 0 {
		sets = append(sets, "rollout.concurrency="+strconv.Itoa(concurrency))
	}
	hardware := p.hardware()
	c, err := config.Source{Profile: p.profile, Sets: sets, Machine: hardware}.Load()
	if err != nil {
		return forecast.Forecast{}
	}
	machine := p.machine
	machine.Free = 0
	return forecast.Of(forecast.Input{Config: c, Model: p.model, Machine: machine,
		Server: predictServer(c, p.model, machine)})
}

// noteMemory adds a note if the run does not fit. For llama-server,
// chooseConcurrency does that.
func (p *planner) noteMemory() {
	if p.backend == "llamacpp" {
		return
	}
	for _, problem := range p.forecast(0).Problems {
		p.notes = append(p.notes, problem.What+": "+problem.Remedy)
	}
}

// add adds the user's own keys. They replace choices for the same key.
func (p *planner) add(sets []string) error {
	for _, set := range sets {
		key, value, err := config.ParseSet(set)
		if err != nil {
			return err
		}
		if key == "profile" {
			p.profile, p.profileWhy = strings.Trim(value, `"`), "given with --set"
			continue
		}
		replaced := false
		for i, c := range p.choices {
			if c.key == key {
				p.choices[i] = choice{key, value, "given with --set"}
				replaced = true
			}
		}
		if !replaced {
			p.set(key, value, "given with --set")
		}
	}
	return nil
}

// write writes the file. Tables are in the order of their first key.
func (p *planner) write(w io.Writer) {
	fmt.Fprintf(w, "# Written by empo2 init for %s on this machine: %s.\n", oneLine(filepath.Base(p.model.Path)),
		p.describeMachine())
	fmt.Fprintf(w,
		"# All other keys have the profile's values or their defaults: empo2 config shows them with their meaning.\n\n")
	fmt.Fprintf(w, "# %s\nprofile = %q\n", p.profileWhy, p.profile)
	var tables []string
	byTable := map[string][]choice{}
	for _, c := range p.choices {
		table := c.key[:strings.LastIndex(c.key, ".")]
		if byTable[table] == nil {
			tables = append(tables, table)
		}
		byTable[table] = append(byTable[table], c)
	}
	for _, table := range tables {
		fmt.Fprintf(w, "\n[%s]\n", table)
		for _, c := range byTable[table] {
			if c.why != "" {
				fmt.Fprintf(w, "# %s\n", oneLine(c.why))
			}
			fmt.Fprintf(w, "%s = %s\n", c.key[len(table)+1:], c.value)
		}
	}
}
