package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
)

// checkGPUs refuses a number of GPUs that the machine does not have, and servers that
// empo2 does not start.
func (cmd *initCmd) checkGPUs(s subject) error {
	fault := func(msg, hint string) error {
		return &config.Error{Place: fmt.Sprintf("--gpus %d", cmd.GPUs), Msg: msg, Hint: hint}
	}
	switch {
	case cmd.GPUs < 0:
		return fault("is not a number of GPUs", "a number from 1 to the machine's")
	case cmd.GPUs <= 1:
		return nil
	case cmd.GPUs > len(s.machine.GPUs):
		return fault(fmt.Sprintf("GPUs of this machine: %d", len(s.machine.GPUs)),
			"leave it out, or run init on the machine that trains")
	case s.backend != "vllm" && s.backend != "llamacpp":
		return fault("empo2 starts no servers of "+s.backend+" on GPUs of its choice", "--backend vllm or llamacpp")
	}
	return nil
}

// chooseGPUs places the servers on the first half of the GPUs, and the trainer on the
// others. Without training the servers use all.
func (p *planner) chooseGPUs() {
	n := p.gpus
	if n < 2 {
		if have := len(p.machine.GPUs); have > 1 && p.backend == "vllm" {
			p.notes = append(p.notes, fmt.Sprintf("this machine has %d GPUs, of which the run uses the first one: "+
				"--gpus %d uses all", have, have))
		}
		return
	}
	servers := n / 2
	if !p.trains() {
		servers = n
	}
	table := "sampler." + p.backend + "."
	if servers > 1 {
		p.set(table+"replicas", strconv.Itoa(servers), "a server on each of its GPUs")
	}
	p.set(table+"devices", "["+joined(0, servers, `"%d"`, ", ")+"]", "CUDA_VISIBLE_DEVICES of each server")
	if p.backend == "vllm" {
		p.set(table+"gpu_memory_utilization", "0.9", "these GPUs are the servers' alone")
	}
	if !p.trains() {
		return
	}
	if p.backend == "vllm" {
		p.set(table+"sleep", "false", "server and trainer work at the same time")
	}
	p.set("rollout.max_staleness", "1", "a step is sampled while the one before is trained")
	if n-servers == 1 {
		p.set("trainer.device", config.Quote(fmt.Sprintf("cuda:%d", servers)), "the GPU that samples nothing")
		return
	}
	p.set("trainer.gpus", strconv.Itoa(n-servers), "the GPUs that sample nothing")
	p.set("trainer.env", fmt.Sprintf(`["CUDA_VISIBLE_DEVICES=%s"]`, joined(servers, n, "%d", ",")), "which GPUs these are")
}

// joined formats the numbers from one up to the other, without that.
func joined(from, to int, format, separator string) string {
	var parts []string
	for i := from; i < to; i++ {
		parts = append(parts, fmt.Sprintf(format, i))
	}
	return strings.Join(parts, separator)
}
