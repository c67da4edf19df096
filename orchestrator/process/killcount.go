package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// countKills is the present count of [Command.Kills].
func (p *Process) countKills() int {
	if p.c.Kills != nil {
		return p.c.Kills()
	}
	return kernelKills("/")
}

// mayHaveRunOut reports whether a process that was killed from outside may have
// been killed because memory ran out. It is false only if the kernel counts
// such kills and the count has not risen.
func (p *Process) mayHaveRunOut() bool {
	now := p.countKills()
	return p.kills < 0 || now < 0 || now > p.kills
}

// kernelKills counts those of this process's control group. If the kernel does not,
// it counts those of the whole machine; -1: unknown. root is / except in tests.
func kernelKills(root string) int {
	if n := controlGroupKills(root); n >= 0 {
		return n
	}
	counters, err := os.ReadFile(filepath.Join(root, "proc/vmstat"))
	if err != nil {
		return -1
	}
	return killsIn(string(counters))
}

// controlGroupKills reads oom_kill in the memory.events of this process's
// control group (version 2), whose count includes the groups below. It returns
// -1 if that is not possible.
func controlGroupKills(root string) int {
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(groups)) {
		group, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !unified {
			continue
		}
		events, err := os.ReadFile(filepath.Join(root, "sys/fs/cgroup", group, "memory.events"))
		if err != nil {
			return -1 // the root group has no such file
		}
		return killsIn(string(events))
	}
	return -1
}

// killsIn is the value of oom_kill in a text of counters, or -1.
func killsIn(events string) int {
	for line := range strings.Lines(events) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
				return n
			}
		}
	}
	return -1
}
