package openai

import (
	"os"
	"testing"

	"github.com/empo2/empo2/sampler/samplertest"
)

// TestReal holds any real endpoint against the contract: EMPO2_OPENAI_URL and
// EMPO2_OPENAI_MODEL name it, OPENAI_API_KEY is its key. It asks some 150 short
// questions.
func TestReal(t *testing.T) {
	cfg := Config{URL: os.Getenv("EMPO2_OPENAI_URL"), Model: os.Getenv("EMPO2_OPENAI_MODEL"), APIKey: os.Getenv("OPENAI_API_KEY")}
	if cfg.URL == "" || cfg.Model == "" {
		t.Skip("NOT TESTED with a real server: EMPO2_OPENAI_URL or EMPO2_OPENAI_MODEL is not set")
	}
	samplertest.RunText(t, func(t *testing.T) samplertest.TextFixture {
		b, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { t.Logf("%+v", b.Stats()) })
		return samplertest.TextFixture{Backend: b, Prompt: "Levers: jade, bone. Door 1 of 2 is iron."}
	})
}
