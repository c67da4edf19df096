package config

import (
	"path/filepath"
	"slices"
	"testing"
)

// placements are the files of scripts/recipes that place servers and trainer, with what
// each says.
var placements = map[string]struct {
	backend       string
	devices, urls []string
	device        string
	trainers      int
	trainerEnv    []string
	url           string // of the trainer
	staleness     int
	sleeps        bool
}{
	"gpus-1.toml":          {backend: "vllm", devices: []string{"0"}, device: "cuda:0", sleeps: true},
	"gpus-2.toml":          {backend: "vllm", devices: []string{"0"}, device: "cuda:1", staleness: 1},
	"gpus-2-llamacpp.toml": {backend: "llamacpp", devices: []string{"0"}, device: "cuda:1", staleness: 1},
	"gpus-8.toml": {backend: "vllm", devices: []string{"0", "1", "2", "3"}, device: "auto", trainers: 4,
		trainerEnv: []string{"CUDA_VISIBLE_DEVICES=4,5,6,7"}, staleness: 1},
	"machines-2-trainer.toml": {backend: "vllm", devices: []string{"0"}, device: "auto", staleness: 1,
		url: "http://machine-a:8000"},
	"machines-2.toml": {backend: "vllm", urls: []string{"http://machine-a:8000"}, device: "cuda:0", staleness: 1},
}

// Every placement is valid after each of the paper's recipes, and alone.
func TestPlacementRecipesLoad(t *testing.T) {
	folder := filepath.Join("..", "..", "scripts", "recipes")
	for _, pattern := range []string{"gpus-*.toml", "machines-*.toml"} {
		files, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if _, known := placements[filepath.Base(file)]; !known {
				t.Errorf("%s is not tested", file)
			}
		}
	}
	for name, want := range placements {
		for _, recipe := range []string{"", "scienceworld-19.toml", "scienceworld-30.toml", "scienceworld-single.toml",
			"webshop.toml"} {
			var files []string
			if recipe != "" {
				files = append(files, filepath.Join(folder, recipe))
			}
			s := Source{Files: append(files, filepath.Join(folder, name)), Sets: []string{"model.path=m"},
				Machine: Machine{GPU: true}}
			c, err := s.Load()
			if err != nil {
				t.Errorf("%s after %q: %v", name, recipe, err)
				continue
			}
			if c.Sampler.Backend != want.backend || !slices.Equal(c.Sampler.Devices(), want.devices) ||
				!slices.Equal(c.Sampler.VLLM.URLs, want.urls) || c.Trainer.Device != want.device || c.Trainer.URL != want.url ||
				c.Trainer.GPUs != max(1, want.trainers) || !slices.Equal(c.Trainer.Env, want.trainerEnv) ||
				c.Sampler.Replicas() != max(1, len(want.devices)) ||
				c.Rollout.MaxStaleness != want.staleness || c.Sampler.VLLM.Sleep != want.sleeps {
				t.Errorf("%s after %q: %+v, trainer on %s, staleness %d", name, recipe, c.Sampler, c.Trainer.Device,
					c.Rollout.MaxStaleness)
			}
		}
	}
}
