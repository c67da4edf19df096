package openai

import (
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/sampler/samplertest"
)

// Open refuses a model that the server does not list, because some servers answer
// with another model.
func TestAModelThatIsNotListedIsRefused(t *testing.T) {
	s := newFake(t, samplertest.Say("pull"))
	f := func(model string, ok bool) {
		t.Helper()
		b, err := Open(t.Context(), Config{URL: s.URL, Model: model, RequestTimeout: time.Minute})
		if err == nil {
			b.Close()
		}
		if ok != (err == nil) || !ok && (!strings.Contains(err.Error(), "the server has: another, tiny") ||
			!strings.Contains(err.Error(), "sampler.served_model_name")) {
			t.Errorf("%s: %v", model, err)
		}
	}
	f("tiny", true)
	f("other", false)
	s.Model = "tiny:latest" // Ollama's name for tiny
	f("tiny", true)
}
