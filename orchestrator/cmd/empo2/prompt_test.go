package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// useServer writes a server.toml with these lines.
func useServer(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile("server.toml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The server tokenizes prompts if it can, and the trainer does so otherwise. All give the
// ids of the model's chat template.
func TestWhoTokenizesPrompts(t *testing.T) {
	v, s := fakeserver.NewVLLM(scripted()), fakeserver.NewSGLang(scripted())
	old, o := fakeserver.NewVLLM(scripted()), fakeserver.NewOllama(scripted())
	old.NoTokenize = true
	for _, server := range []interface{ Close() }{v, s, old, o} {
		t.Cleanup(server.Close)
	}
	f := func(name, server, note string) {
		t.Helper()
		fakeWorld(t)
		useServer(t, server)
		if note == "" { // there is no trainer
			t.Setenv("EMPO2_PYTHON", "/no/such/python")
		}
		out, stderr := empo2(t, 0, "prompt", "--profile", "demo", "-c", "server.toml", "--tokens", "--json")
		shown := eventsOf[shownPrompt](t, out, "prompt")[0]
		rendering := ""
		for _, m := range shown.WithTips.Messages {
			rendering += fmt.Sprintf("<|im_start|>%s\n%s<|im_end|>\n", m.Role, m.Text)
		}
		want := scripted().Tokenizer.EncodeSpecial(rendering + "<|im_start|>assistant\n")
		if len(want) != len(shown.WithTips.Tokens) {
			t.Fatalf("%s: %d tokens, want %d", name, len(shown.WithTips.Tokens), len(want))
		}
		for i, token := range shown.WithTips.Tokens {
			if token.ID != want[i] || token.Text == nil {
				t.Fatalf("%s: token %d is %d, want %d", name, i, token.ID, want[i])
			}
		}
		if !strings.Contains(stderr, note) || note == "" && stderr != "" {
			t.Errorf("%s: %q, want %q", name, stderr, note)
		}
	}
	vllm := func(url string) string {
		return fmt.Sprintf("[sampler]\nbackend = \"vllm\"\n[sampler.vllm]\nurls = [%q]\n", url)
	}
	sglang := func(template string) string {
		return fmt.Sprintf("[sampler]\nbackend = \"sglang\"\n%s[sampler.sglang]\nurls = [%q]\n", template, s.URL)
	}
	f("vllm", vllm(v.URL), "")
	f("vllm without /tokenize", vllm(old.URL), "the trainer tokenizes: ")
	f("sglang with a named template", sglang("template = \"chatml\"\n"), "")
	f("sglang", sglang(""), "the trainer tokenizes: SGLang ")
	f("ollama", fmt.Sprintf("[sampler]\nbackend = \"ollama\"\nserved_model_name = \"tiny\"\n[sampler.ollama]\nurl = %q\n", o.URL),
		"the trainer tokenizes: Ollama has no request that tokenizes")
}
