package main

import (
	"fmt"
	"os/exec"

	"github.com/empo2/empo2/orchestrator/config"
)

// checkPrograms returns an error if a program that the configuration names for the server does not exist.
func checkPrograms(c config.Config) error {
	s := c.Sampler
	named := map[string]map[string]string{
		"llamacpp": {"sampler.llamacpp.binary": s.LlamaCPP.Binary},
		"vllm":     {"sampler.vllm.launch": first(s.VLLM.Launch), "sampler.vllm.python": s.VLLM.Python},
		"sglang":   {"sampler.sglang.launch": first(s.SGLang.Launch)},
	}
	for key, path := range named[s.Backend] {
		if path == "" {
			continue
		}
		if _, err := exec.LookPath(path); err != nil {
			return &config.Error{Place: key, Msg: fmt.Sprintf("no program %q can be started: %v", path, err),
				Hint: "install the program, or name its path"}
		}
	}
	return nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
