package openai

import (
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/sampler/samplertest"
)

// A model that the server does not list is refused before anything is asked of
// it, as some servers answer with whichever model they have.
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
	s.Model = "tiny:latest" // as Ollama lists what is asked for as tiny
	f("tiny", true)
}
