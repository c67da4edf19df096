package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// summary prints what was found, what was chosen, and the next commands.
func (p *planner) summary(out *console, c config.Config, file string) {
	out.print("model    %s: %s", oneLine(filepath.Base(p.model.Path)), p.describeModel())
	out.print("machine  %s", p.describeMachine())
	out.print("plan     %s on %s with %s, profile %s: "+
		"%s of %s per step, %d at the same time, %d tokens each",
		c.Algorithm.Name, c.Env.Name, c.Sampler.Backend, c.Profile, counted(c.Algorithm.Groups, "group"),
		counted(c.Algorithm.GroupSize, "episode"),
		c.Rollout.Concurrency, c.ContextTokens(p.model.Context))
	if n := p.model.Context; n > 0 && n < c.EpisodeTokens() && p.env != "vault" { // a vault is short
		p.notes = append(p.notes, fmt.Sprintf("the longest episode may need %d tokens, and the model's context is %d: "+
			"lower rollout.max_turns if episodes are cut", c.EpisodeTokens(), n))
	}
	for _, note := range p.notes {
		out.print("note     %s", note)
	}
	command := ""
	if file != "config.toml" {
		command = " -c " + safetext.Argument(file)
	}
	out.print("written  %s, with the reason for each value", file)
	out.print("next     empo2 doctor%s, then empo2 try%s to see replies, then empo2 run%s", command, command, command)
}

// describeModel is, for example, "llama, 135 M parameters, float32, context 8192".
func (p *planner) describeModel() string {
	parts := []string{p.model.Architecture}
	if n := float64(p.model.Parameters); n >= 1e9 {
		parts = append(parts, fmt.Sprintf("%.1f B parameters", n/1e9))
	} else if n >= 1e6 {
		parts = append(parts, fmt.Sprintf("%.0f M parameters", n/1e6))
	} else if n > 0 {
		parts = append(parts, fmt.Sprintf("%.0f parameters", n))
	}
	if p.model.Dtype != "" {
		parts = append(parts, p.model.Dtype)
	}
	if p.model.Context > 0 {
		parts = append(parts, fmt.Sprintf("context %d", p.model.Context))
	}
	if p.gguf != nil {
		parts = append(parts, fmt.Sprintf("tokenizer %s with %d tokens", p.gguf.Tokenizer, p.gguf.Vocabulary))
	}
	return strings.Join(parts, ", ")
}

// describeMachine is, for example, "2 cores, 24.6 GB of memory, no GPU".
func (p *planner) describeMachine() string {
	m := p.machine
	parts := []string{fmt.Sprintf("%d cores", m.Cores)}
	if m.Memory > 0 {
		parts = append(parts, fmt.Sprintf("%.1f GB of memory", float64(m.Memory)/gigabyte))
	}
	if len(m.GPUs) == 0 {
		return strings.Join(append(parts, "no GPU"), ", ")
	}
	for _, gpu := range m.GPUs {
		parts = append(parts, describeGPU(gpu))
	}
	return strings.Join(parts, ", ")
}

// describeGPU is, for example, "NVIDIA L4 with 24.2 GB".
func describeGPU(g inspect.GPU) string {
	if g.Memory == 0 {
		return g.Name
	}
	return fmt.Sprintf("%s with %.1f GB", g.Name, float64(g.Memory)/gigabyte)
}
