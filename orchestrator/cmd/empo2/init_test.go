package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// modelFolder writes a model folder like that of a download. The header of its
// weights file states the number of parameters. The weights are a hole in the file.
func modelFolder(t *testing.T, name, architecture string, parameters int64) string {
	t.Helper()
	header := fmt.Sprintf(`{"w": {"dtype": "BF16", "shape": [%d], "data_offsets": [0, %d]}}`, parameters, 2*parameters)
	weights := string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"config.json": fmt.Sprintf(`{"model_type": %q, "dtype": "bfloat16", "max_position_embeddings": 32768,
			"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}`,
			architecture),
		"tokenizer.json":        "{}",
		"tokenizer_config.json": `{"chat_template": "{{ messages }}"}`,
		"model.safetensors":     weights,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, "model.safetensors"), int64(len(weights))+2*parameters); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ggufFile writes the file of a llama model with one tensor, without its data.
func ggufFile(t *testing.T, version uint32, cut int) string {
	t.Helper()
	order := binary.LittleEndian
	text := func(b []byte, s string) []byte { return append(order.AppendUint64(b, uint64(len(s))), s...) }
	key := func(b []byte, name string, kind uint32) []byte { return order.AppendUint32(text(b, name), kind) }
	b := order.AppendUint32([]byte("GGUF"), version)
	b = order.AppendUint64(order.AppendUint64(b, 1), 4)
	b = text(key(b, "general.architecture", 8), "llama")
	b = order.AppendUint32(key(b, "llama.context_length", 4), 4096)
	b = text(key(b, "tokenizer.ggml.model", 8), "gpt2")
	b = order.AppendUint64(order.AppendUint32(key(b, "tokenizer.ggml.tokens", 9), 8), 2)
	b = text(text(b, "a"), "b")
	b = order.AppendUint32(text(b, "w"), 1)
	b = order.AppendUint64(order.AppendUint32(order.AppendUint64(b, 4), 0), 0)
	b = append(b, make([]byte, 48)...)
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, b[:len(b)-cut], 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// probe is a machine with 24 GB. nvidia-smi prints the given lines.
func probe(t *testing.T, smi string) inspect.Probe {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "proc", "meminfo"), []byte("MemTotal: 24000000 kB\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	return inspect.Probe{Root: root, Run: func(string, ...string) (string, error) {
		if smi == "" {
			return "", errors.New("no such program")
		}
		return smi, nil
	}}
}

// initialize runs empo2 init. It returns the file, its configuration and the
// output.
func initialize(t *testing.T, cmd initCmd, gpu bool) (text string, c config.Config, printed string) {
	t.Helper()
	cmd.Output = filepath.Join(t.TempDir(), "config.toml")
	var out bytes.Buffer
	if err := cmd.Run(&console{out: &out, err: &out}); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(cmd.Output)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = (config.Source{Files: []string{cmd.Output}, Machine: config.Machine{GPU: gpu}}).Load(); err != nil {
		t.Fatal(err)
	}
	if err := checkModels(c); err != nil {
		t.Errorf("a run would fail: %v", err)
	}
	return string(written), c, out.String()
}

// The new file is valid, fits the machine, and gives a reason for each key.
func TestInitFitsTheMachine(t *testing.T) {
	small, large := modelFolder(t, "Small-135M", "llama", 135e6), modelFolder(t, "Large-7B", "qwen2", 76e8)
	f := func(model, smi string, want config.Config) {
		t.Helper()
		text, c, printed := initialize(t, initCmd{Model: model, Env: "vault", Algorithm: "empo2", Probe: probe(t,
			smi)}, smi != "")
		got := config.Config{Profile: c.Profile, Model: c.Model, Run: config.Run{Name: c.Run.Name}}
		got.Sampler.Backend, got.Trainer.Dtype, got.Optimizer.LearningRate = c.Sampler.Backend, c.Trainer.Dtype,
			c.Optimizer.LearningRate
		got.Rollout.Concurrency = c.Rollout.Concurrency
		if d := config.Differences(want, got); len(d) > 0 {
			t.Errorf("%s on %q: %q", model, smi, d)
		}
		if bare := regexp.MustCompile(`(?m)^[^#\n][^\n]*\n[a-z_]+ = `).FindString(text); bare != "" {
			t.Errorf("a key without a reason: %q", bare)
		}
		for _, said := range []string{filepath.Base(model), "next     empo2 doctor -c ", c.Profile} {
			if !strings.Contains(printed, said) {
				t.Errorf("%q is not in\n%s", said, printed)
			}
		}
	}
	want := func(profile, model, name, backend, dtype string, rate float64, concurrency int) (c config.Config) {
		c.Profile, c.Model.Path, c.Run.Name, c.Sampler.Backend, c.Trainer.Dtype = profile, model, name, backend, dtype
		c.Optimizer.LearningRate, c.Rollout.Concurrency = rate, concurrency
		return c
	}
	f(small, "", want("cpu", small, "Small-135M-vault-empo2", "llamacpp", "float32", 5e-4, 8))
	f(small, "NVIDIA L4, 23034\n", want("gpu-24gb", small, "Small-135M-vault-empo2", "vllm", "bfloat16", 5e-4, 32))
	f(large, "NVIDIA H100 80GB HBM3, 81559\n", want("gpu-80gb", large, "Large-7B-vault-empo2", "vllm", "bfloat16",
		1e-5, 64))
}

// init warns if the model does not fit, and sets the arguments that the chat
// template needs.
func TestInitNotes(t *testing.T) {
	large := modelFolder(t, "Large-7B", "qwen2", 76e8)
	_, c, printed := initialize(t, initCmd{Model: large, Env: "vault", Algorithm: "grpo", Probe: probe(t, "")}, false)
	// 60.8 GB of float32 weights, the programs, caches and activations.
	if c.Rollout.Concurrency != 1 || c.Algorithm.Name != "grpo" || !strings.Contains(printed,
		"GB of memory, this machine has 24.6 GB: ") {
		t.Errorf("concurrency %d, %s\n%s", c.Rollout.Concurrency, c.Algorithm.Name, printed)
	}
	f := func(backend, smi, note string) {
		t.Helper()
		text, _, printed := initialize(t, initCmd{Model: large, Env: "vault", Algorithm: "empo2", Backend: backend,
			Probe: probe(t, smi)}, smi != "")
		if !strings.Contains(printed, note) || (backend != "") != strings.Contains(text, "given with --backend") {
			t.Errorf("%q on %q: no %q in\n%s%s", backend, smi, note, text, printed)
		}
	}
	f("", "NVIDIA L4, 23034\n", "the weights take 15.2 GB of the 12.1 GB that the server may use")
	f("vllm", "", "trainer and server need at least")
	thinking := modelFolder(t, "Qwen3", "qwen3", 6e8)
	for file, text := range map[string]string{"chat_template.jinja": "{% if enable_thinking %}",
		"tokenizer_config.json": "{}"} {
		if err := os.WriteFile(filepath.Join(thinking, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, c, _ = initialize(t, initCmd{Model: thinking, Env: "scienceworld", Algorithm: "empo2", Probe: probe(t, "")},
		false); c.Sampler.TemplateArgs["enable_thinking"] != false || c.Prompt.Template != "recipe" {
		t.Errorf("template arguments %v, prompt %s", c.Sampler.TemplateArgs, c.Prompt.Template)
	}
	base := modelFolder(t, "Base", "llama", 6e8)
	if err := os.WriteFile(filepath.Join(base, "tokenizer_config.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, c, printed = initialize(t, initCmd{Model: base, Env: "vault", Algorithm: "empo2", Probe: probe(t, "")},
		false); c.Sampler.Template != "chatml" || !strings.Contains(printed, "no chat template") {
		t.Errorf("template %s\n%s", c.Sampler.Template, printed)
	}
}

// Without training, a GGUF file is enough. The user's keys replace the chosen
// ones.
func TestInitWithAFileAndKeys(t *testing.T) {
	file := ggufFile(t, 3, 0)
	_, c, printed := initialize(t, initCmd{Model: file, Env: "remote", Algorithm: "adapt", Probe: probe(t, ""),
		Set: []string{"env.remote.url=http://127.0.0.1:8090", "run.name=mine", "profile=cpu",
			"rollout.temperature=0.5"}}, false)
	if c.Model.Path != file || c.Run.Name != "mine" || c.Env.Remote.URL == "" || c.Rollout.Temperature != 0.5 {
		t.Errorf("%+v %+v", c.Model, c.Run)
	}
	if !strings.Contains(printed, "llama, 4 parameters, F32, context 4096, tokenizer gpt2 with 2 tokens") {
		t.Error(printed)
	}
}

// initFails runs empo2 init, which must fail with a hint and write no file.
func initFails(t *testing.T, cmd initCmd, says ...string) {
	t.Helper()
	if cmd.Env == "" {
		cmd.Env = "vault"
	}
	if cmd.Algorithm == "" {
		cmd.Algorithm = "empo2"
	}
	output := filepath.Join(t.TempDir(), "config.toml")
	if cmd.Output == "" {
		cmd.Output = output
	}
	cmd.Probe = probe(t, "")
	err := cmd.Run(&console{out: &bytes.Buffer{}, err: &bytes.Buffer{}})
	var fault *config.Error
	if !errors.As(err, &fault) || fault.Hint == "" {
		t.Errorf("%+v: %v", cmd, err)
		return
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v\nwants %q", err, text)
		}
	}
	if fileExists(output) {
		t.Errorf("%v, and a file", err)
	}
}

// If init cannot write a configuration, the error has a hint.
func TestInitRefusesFlags(t *testing.T) {
	good := modelFolder(t, "m", "llama", 1e8)
	f := func(cmd initCmd, says ...string) {
		t.Helper()
		initFails(t, cmd, says...)
	}
	f(initCmd{Model: good, Env: "vaults"}, "--env vaults", "one of vault, scienceworld")
	f(initCmd{Model: good, Backend: "sgl"}, "--backend sgl", "one of llamacpp, vllm, sglang, ollama, openai")
	f(initCmd{Model: good, Algorithm: "ppo"}, "--algorithm ppo", "empo2, grpo, adapt")
	f(initCmd{Model: good, Env: "remote"}, "env.remote.url", "--set env.remote.url=VALUE")
	f(initCmd{Model: good, Env: "webshop"}, "env.webshop.data", "--set env.webshop.data=VALUE")
	f(initCmd{Model: good, Backend: "sglang"}, "sampler.sglang.urls", "--set sampler.sglang.urls=VALUE")
	f(initCmd{Model: good, Backend: "ollama"}, "sampler.served_model_name", "--set sampler.served_model_name=VALUE")
	f(initCmd{Model: good, Backend: "openai", Set: []string{"sampler.served_model_name=m",
		"sampler.openai.url=http://h/v1"}}, "takes no adapters", "adapt")
	f(initCmd{Model: good, Set: []string{"run.stepz=3"}}, `nearest valid key is "run.steps"`)
	f(initCmd{Model: good, Set: []string{"rollout.max_steps=3"}}, "rollout.max_steps is now rollout.max_turns")
	f(initCmd{Model: good, Set: []string{"profile=none"}}, `unknown profile "none"`)
	f(initCmd{Model: good, Set: []string{"env.name=remote"}}, "give it as --env")
	f(initCmd{Model: good, Backend: "openai"}, "--backend openai", "--algorithm adapt")
}

func TestInitRefusesModels(t *testing.T) {
	good := modelFolder(t, "m", "llama", 1e8)
	f := func(cmd initCmd, says ...string) {
		t.Helper()
		initFails(t, cmd, says...)
	}
	f(initCmd{Model: ""}, "--model: is empty")
	f(initCmd{Model: "\xff"}, "is not UTF-8")
	f(initCmd{Model: t.TempDir()}, "no config.json")
	f(initCmd{Model: filepath.Join(good, "none")}, "no such file or folder")
	f(initCmd{Model: filepath.Join(good, "config.json")}, "neither a folder nor a GGUF file")
	f(initCmd{Model: modelFolder(t, "g", "gpt2", 1e8)}, `adapters as GGUF, and those of "gpt2"`, "--backend vllm")
	f(initCmd{Model: modelFolder(t, "g", "gpt_oss", 1e8)}, `"gpt_oss" cannot be converted`,
		"--set sampler.llamacpp.gguf=FILE")
	f(initCmd{Model: ggufFile(t, 3, 0)}, "the trainer cannot load it", "Hugging Face format", "--algorithm adapt")
	f(initCmd{Model: ggufFile(t, 3, 0), Algorithm: "adapt", Backend: "vllm"}, "only llamacpp serves a GGUF file")
	f(initCmd{Model: ggufFile(t, 1, 0), Algorithm: "adapt"}, "GGUF version 1")
	f(initCmd{Model: ggufFile(t, 3, 48), Algorithm: "adapt"}, "cut short")
	f(initCmd{Model: ggufFile(t, 3, 100), Algorithm: "adapt"}, "cut short")
	if err := os.Remove(filepath.Join(good, "tokenizer.json")); err != nil {
		t.Fatal(err)
	}
	f(initCmd{Model: good}, "no tokenizer.json")
	other := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(other, []byte("PK\x03\x04 and what follows in such a file"), 0o644); err != nil {
		t.Fatal(err)
	}
	f(initCmd{Model: other, Algorithm: "adapt"}, "not a GGUF file")
	f(initCmd{Model: good, Output: other}, "exists already", "--force")
}

// A model that the trainer or the server could not load is refused before the
// first run.
func TestInitRefusesModelsThatCannotRun(t *testing.T) {
	f := func(config, backend, algorithm, says string) {
		t.Helper()
		dir := modelFolder(t, "m", "llama", 1e8)
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := initCmd{Model: dir, Env: "vault", Backend: backend, Algorithm: algorithm, Probe: probe(t, ""),
			Output: filepath.Join(t.TempDir(), "c.toml")}
		err := cmd.Run(&console{out: &bytes.Buffer{}, err: &bytes.Buffer{}})
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s with %s: %v, want %q", config, backend, err, says)
		}
	}
	quantised := `{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}`
	f(quantised, "vllm", "empo2", "the weights are quantised (gptq)")
	f(quantised, "vllm", "adapt", "")
	f(quantised, "llamacpp", "adapt", "quantised weights (gptq) cannot be converted")
	scaled := `{"model_type": "phi3", "rope_scaling": {"rope_type": "longrope"}}`
	f(scaled, "llamacpp", "empo2", "--set sampler.llamacpp.gguf=FILE")
	f(scaled, "vllm", "empo2", "")
	f(`{"model_type": "llama", "rope_scaling": {"rope_type": "llama3"}}`, "llamacpp", "empo2", "")
	f(`{"model_type": "bert", "architectures": ["BertForMaskedLM"]}`, "vllm", "empo2", "not a language model")
}

// run refuses what init refuses, before anything is installed or converted.
func TestRunChecksTheModel(t *testing.T) {
	dir := modelFolder(t, "m", "llama", 1e8)
	c, err := config.Source{Profile: "cpu", Sets: []string{"model.path=" + dir}}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkModels(c); err != nil {
		t.Error(err)
	}
	var fault *config.Error
	refused := func(config string, says ...string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		err := checkModels(c)
		for _, text := range says {
			if !errors.As(err, &fault) || fault.Place != "model.path" || !strings.Contains(err.Error(), text) {
				t.Errorf("%v, want %q", err, text)
			}
		}
		if len(says) == 0 && err != nil {
			t.Errorf("%s: %v", config, err)
		}
	}
	refused(`{"model_type": "llama", "quantization_config": {"quant_method": "awq"}}`, "quantised (awq)",
		`algorithm.name = "adapt"`)
	refused(`{"model_type": "gpt2"}`, `those of "gpt2"`, `sampler.backend = "vllm"`)
	longrope := `{"model_type": "phi3", "rope_scaling": {"type": "longrope"}}`
	refused(longrope, `"longrope" in phi3`, "sampler.llamacpp.gguf")
	c.Sampler.LlamaCPP.GGUF = ggufFile(t, 3, 0)
	refused(longrope) // the base is the user's own file
	c.Sampler.LlamaCPP.GGUF = ""
	if err := os.Remove(filepath.Join(dir, "tokenizer.json")); err != nil {
		t.Fatal(err)
	}
	if err := checkModels(c); !errors.As(err, &fault) || fault.Place != "model.path" ||
		!strings.Contains(err.Error(), "it has no tokenizer.json") {
		t.Errorf("%v", err)
	}
}

// The place of the file is checked before anything is inspected.
func TestInitChecksWhereItWrites(t *testing.T) {
	model, dir := modelFolder(t, "m", "llama", 1e8), t.TempDir()
	f := func(output, says string) {
		t.Helper()
		cmd := initCmd{Model: model, Env: "vault", Algorithm: "empo2", Output: output, Force: true, Probe: probe(t, "")}
		var fault *config.Error
		if err := cmd.Run(&console{out: &bytes.Buffer{}, err: &bytes.Buffer{}}); !errors.As(err, &fault) ||
			!strings.Contains(err.Error(), says) || fault.Hint == "" {
			t.Errorf("-o %s: %v, want %q", output, err, says)
		}
	}
	f("", "is empty")
	f(dir, "is not a file")
	f(filepath.Join(dir, "none", "c.toml"), "there is no folder")
}

// Names with signs that mean something to TOML, a shell or a comment.
func TestInitWithUnusualNames(t *testing.T) {
	for _, name := range []string{"a b#c?d~é %s \"q\"", "two\nlines", "it's", `back\slash[1]`} {
		model := modelFolder(t, name, "llama", 1e8)
		_, c, _ := initialize(t, initCmd{Model: model, Env: "vault", Algorithm: "empo2", Probe: probe(t, "")}, false)
		if c.Model.Path != model || !regexp.MustCompile(`^[\pL\pN._-]+$`).MatchString(c.Run.Name) {
			t.Errorf("%q: path %q, name %q", name, c.Model.Path, c.Run.Name)
		}
	}
	if word := safetext.Argument("it's here.toml"); word != `'it'\''s here.toml'` {
		t.Error(word)
	}
	if word := safetext.Argument("/a/b-c.toml"); word != "/a/b-c.toml" {
		t.Error(word)
	}
}

func TestInitReplacesAFileOnlyWithForce(t *testing.T) {
	output := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(output, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := initCmd{Model: modelFolder(t, "m", "llama", 1e8), Env: "vault", Algorithm: "empo2", Output: output,
		Force: true, Probe: probe(t, "")}
	if err := cmd.Run(&console{out: &bytes.Buffer{}, err: &bytes.Buffer{}}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(output); err != nil || !strings.Contains(string(text), `profile = "cpu"`) {
		t.Errorf("%s, %v", text, err)
	}
}
