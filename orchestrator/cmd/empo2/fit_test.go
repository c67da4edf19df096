package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/demos"
)

// A warm start starts no server, so it may fit where the run does not.
func TestWhatFitsIsCheckedBeforeARunAndAWarmStart(t *testing.T) {
	model := t.TempDir()
	const shape = `{"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536,
"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
"tie_word_embeddings": true}`
	if err := os.WriteFile(filepath.Join(model, "config.json"), []byte(shape), 0o644); err != nil {
		t.Fatal(err)
	}
	data := []demos.Demonstration{{Messages: []demos.Message{{Role: "user", Content: strings.Repeat("word ", 400)}}}}
	f := func(rank int, kilobytes string, run, warm string, sets ...string) {
		t.Helper()
		probe := probe(t, "")
		text := []byte("MemTotal: 64000000 kB\nMemAvailable: " + kilobytes + " kB\n")
		if err := os.WriteFile(filepath.Join(probe.Root, "proc", "meminfo"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := (&common{Profile: "cpu", Set: append([]string{"model.path=" + model, "sampler.backend=llamacpp"},
			sets...)}).load()
		if err != nil {
			t.Fatal(err)
		}
		says(t, "run", checkFit(c, 1, probe, zerolog.Nop()), run)
		w := warmStart{cmd: &warmstartCmd{Probe: probe}, config: c, settings: settings{Rank: rank}}
		says(t, "warm start", w.checkFit(data, zerolog.Nop()), warm)
	}
	const refused = "has 2.0 GB free\n  hint: "
	f(16, "24000000", "", "")
	f(16, "2000000", refused+"lower rollout.concurrency", "")
	f(1024, "2000000", refused, "has 2.0 GB free\n  hint: choose a smaller model, a shorter context")
	f(16, "500000", "the weights alone take 1.1 GB", "the weights alone take 0.5 GB")
	f(16, "2000000", "", "", "run.must_fit=false")
	// What is longer than the context is no row of the trainer: it is refused by its line.
	data[0].Messages[0].Content = strings.Repeat("word ", 400_000)
	f(16, "24000000", "", "")
}

// The reason why a quantised model cannot be trained comes before its size.
func TestTheSizeOfAQuantisedModelIsNotTheReason(t *testing.T) {
	model := t.TempDir()
	const shape = `{"model_type": "llama", "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672,
"num_attention_heads": 64, "vocab_size": 128256, "max_position_embeddings": 8192%s}`
	f := func(more, want string) {
		t.Helper()
		text := fmt.Appendf(nil, shape, more)
		if err := os.WriteFile(filepath.Join(model, "config.json"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := (&common{Profile: "cpu", Set: []string{"model.path=" + model, "sampler.backend=llamacpp"}}).load()
		if err != nil {
			t.Fatal(err)
		}
		says(t, "run", checkFit(c, 1, probe(t, ""), zerolog.Nop()), want)
	}
	f("", "the model does not fit")
	f(`, "quantization_config": {"quant_method": "gptq", "bits": 4}`, "")
}

func says(t *testing.T, what string, err error, want string) {
	t.Helper()
	var setup *setupError
	if want == "" && err != nil || want != "" && (!errors.As(err, &setup) || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// Several GPUs may share the work in ways that are not known: no refusal.
func TestSeveralGPUsAreNotRefused(t *testing.T) {
	model := t.TempDir()
	const shape = `{"model_type": "qwen2", "num_hidden_layers": 28, "hidden_size": 3584, "intermediate_size": 18944,
"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768}`
	if err := os.WriteFile(filepath.Join(model, "config.json"), []byte(shape), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := config.Source{Profile: "gpu-24gb", Sets: []string{"model.path=" + model},
		Machine: config.Machine{GPU: true}}.Load()
	if err != nil {
		t.Fatal(err)
	}
	one := "NVIDIA L4, 23034\n"
	says(t, "one GPU", checkFit(c, 1, probe(t, one), zerolog.Nop()), "the weights take 15.2 GB of the 12.1 GB")
	says(t, "two GPUs", checkFit(c, 1, probe(t, one+one), zerolog.Nop()), "")
}
