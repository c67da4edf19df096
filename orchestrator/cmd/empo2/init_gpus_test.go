package main

import (
	"slices"
	"strings"
	"testing"
)

// init places the servers on one half of the GPUs, and the trainer on the other.
func TestInitPlacesProcessesOnGPUs(t *testing.T) {
	small := modelFolder(t, "Small-135M", "llama", 135e6)
	smi := strings.Repeat("NVIDIA L4, 23034\n", 8)
	f := func(gpus int, backend, algorithm string, devices []string, device string, trainers, staleness int) {
		t.Helper()
		_, c, printed := initialize(t, initCmd{Model: small, Env: "vault", Algorithm: algorithm, Backend: backend,
			GPUs: gpus, Probe: probe(t, smi)}, true)
		if got := c.Sampler.Devices(); !slices.Equal(got, devices) || c.Sampler.Replicas() != max(1, len(devices)) {
			t.Errorf("%d GPUs: servers %d on %q, want %q", gpus, c.Sampler.Replicas(), got, devices)
		}
		if c.Trainer.Device != device || c.Rollout.MaxStaleness != staleness || c.Trainer.GPUs != trainers {
			t.Errorf("%d GPUs: trainer on %s, %d GPUs, staleness %d", gpus, c.Trainer.Device, c.Trainer.GPUs,
				c.Rollout.MaxStaleness)
		}
		own := map[int]string{3: "CUDA_VISIBLE_DEVICES=1,2", 8: "CUDA_VISIBLE_DEVICES=4,5,6,7"}[gpus]
		if trainers > 1 && !slices.Equal(c.Trainer.Env, []string{own}) {
			t.Errorf("%d GPUs: the trainer's environment is %q", gpus, c.Trainer.Env)
		}
		if strings.Contains(printed, "--gpus 8 uses all") != (gpus == 1 && backend == "") {
			t.Errorf("%d GPUs: %s", gpus, printed)
		}
	}
	f(1, "", "empo2", nil, "auto", 1, 0)
	f(2, "", "empo2", []string{"0"}, "cuda:1", 1, 1)
	f(2, "llamacpp", "empo2", []string{"0"}, "cuda:1", 1, 1)
	f(3, "", "grpo", []string{"0"}, "auto", 2, 1)
	f(8, "", "empo2", []string{"0", "1", "2", "3"}, "auto", 4, 1)
	f(2, "", "adapt", []string{"0", "1"}, "auto", 1, 0)
}

func TestInitRefusesGPUsThatAreNotThere(t *testing.T) {
	small := modelFolder(t, "Small-135M", "llama", 135e6)
	for _, test := range []struct {
		gpus         int
		backend, why string
	}{{4, "", "GPUs of this machine: 2"}, {2, "ollama", "empo2 starts no servers of ollama"}, {-1, "", "not a number"}} {
		cmd := initCmd{Model: small, Env: "vault", Algorithm: "empo2", Backend: test.backend, GPUs: test.gpus,
			Output: t.TempDir() + "/c.toml", Probe: probe(t, "NVIDIA L4, 23034\nNVIDIA L4, 23034\n")}
		err := cmd.Run(&console{})
		if err == nil || !strings.Contains(err.Error(), test.why) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
