package samplertest

import (
	"math"
	"slices"
	"strings"

	"github.com/empo2/empo2/sampler"
)

// testWritten samples completions with and without a watcher. Both must be equal, and the watcher must see their text
// grow, if the backend streams.
func testWritten(s *subject) {
	p := s.publish(sampler.Adapter{})
	for _, r := range []sampler.Request{{}, {MaxTokens: 3}, {Temperature: 1, Seed: 5}} {
		r.Prompt = s.prompt(0)
		if r.MaxTokens == 0 {
			r.MaxTokens = longAnswer
		}
		whole := s.sample(p, r)
		seen := ""
		r.Written = func(text string) {
			if len(text) <= len(seen) || !strings.HasPrefix(text, seen) {
				s.Errorf("%q was written after %q", text, seen)
			}
			seen = text
		}
		c := s.sample(p, r)
		s.same("watched", whole, c.IDs, c.Logprobs)
		unknown := func(l float32) bool { return math.IsNaN(float64(l)) }
		if slices.ContainsFunc(c.Logprobs, unknown) != slices.ContainsFunc(whole.Logprobs, unknown) {
			s.Errorf("log-probs %v, want %v", c.Logprobs, whole.Logprobs)
		}
		if c.Text != whole.Text || c.Finish != whole.Finish || !strings.HasPrefix(c.Text, seen) {
			s.Errorf("%q, finish %s, want %q, %s; written was %q", c.Text, c.Finish, whole.Text, whole.Finish, seen)
		}
	}
}
