package openai

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/torch"
)

// TestRealLlamaServer runs the conformance suite with the OpenAI API of a real
// llama-server and the base policy of the vault. It needs Python with the trainer's
// packages (EMPO2_PYTHON).
func TestRealLlamaServer(t *testing.T) {
	python := os.Getenv("EMPO2_PYTHON")
	if python == "" {
		t.Skip("NOT TESTED with a real llama-server: EMPO2_PYTHON names no interpreter")
	}
	conforms(t, startLlamaServer(t, python))
}

// TestRealEndpoint runs the conformance suite with the endpoint in EMPO2_OPENAI_URL,
// EMPO2_OPENAI_MODEL and OPENAI_API_KEY. It sends about 150 short requests.
func TestRealEndpoint(t *testing.T) {
	cfg := Config{URL: os.Getenv("EMPO2_OPENAI_URL"), Model: os.Getenv("EMPO2_OPENAI_MODEL"),
		APIKey: os.Getenv("OPENAI_API_KEY")}
	if cfg.URL == "" || cfg.Model == "" {
		t.Skip("NOT TESTED with a real endpoint: EMPO2_OPENAI_URL or EMPO2_OPENAI_MODEL is not set")
	}
	conforms(t, cfg)
}

func conforms(t *testing.T, cfg Config) {
	samplertest.RunText(t, func(t *testing.T) samplertest.TextFixture {
		b, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { t.Logf("%+v", b.Stats()) })
		return samplertest.TextFixture{Backend: b, Prompt: "Levers: jade, bone. Door 1 of 2 is iron."}
	})
}

// startLlamaServer starts the server that comes with xllamacpp.
func startLlamaServer(t *testing.T, python string) Config {
	t.Helper()
	const key = "sk-test"
	file := torch.ConvertVault(t, python)
	settings, err := json.Marshal(map[string]any{
		"model": file, "alias": "vault", "adapters": []string{}, "slots": 4, "context": 4096,
		"threads": 1, "batch_threads": 1, "http_threads": 64, "exact": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "../llamacpp/serve.py", string(settings))
	cmd.Env = append(os.Environ(), "EMPO2_SERVER_KEY="+key)
	var ready struct {
		Address string `json:"address"`
	}
	if err := torch.Start(t, cmd).Read(&ready); err != nil {
		t.Fatalf("read the address of llama-server: %v", err)
	}
	return Config{URL: ready.Address, Model: "vault", APIKey: key, MaxInFlight: 8}
}
