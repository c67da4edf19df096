package llamacpp

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// watched samples testRequest and returns what was written meanwhile.
func watched(t *testing.T, b *Backend, p sampler.Policy) (c sampler.Completion, written []string, err error) {
	t.Helper()
	r := testRequest
	r.Written = func(text string) { written = append(written, text) }
	c, err = b.Sample(t.Context(), p, r)
	return c, written, err
}

// A reply is shown character by character, as the server sends it.
func TestAReplyIsStreamed(t *testing.T) {
	f := newFakes()
	f.policy.Script = func(int, []int32) []samplertest.Choice {
		return []samplertest.Choice{{Text: "pull jade!", Weight: 1}}
	}
	b, p := f.serve(t, Config{})
	c, written, err := watched(t, b, p)
	if diff := cmp.Diff([]string{"pull", "pull jade", "pull jade!"}, written); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if c.Text != "pull jade!" || len(c.IDs) != 4 || len(c.Logprobs) != 4 { // with the end token
		t.Errorf("%+v", c)
	}
	requests := f.last().Requests()
	if !requests[len(requests)-1].Stream || len(requests) != 2 { // the first one is the backend's check
		t.Errorf("%d requests", len(requests))
	}
}

// A stream lacks the tokens within a character. The reply is then asked for as a whole.
func TestAStreamWithGapsIsAskedForAgain(t *testing.T) {
	f := newFakes()
	f.policy.Script = func(int, []int32) []samplertest.Choice { return []samplertest.Choice{{Text: "aé", Weight: 1}} }
	b, p := f.serve(t, Config{})
	c, written, err := watched(t, b, p)
	if err != nil || c.Text != "aé" || len(c.IDs) != 4 { // é has two tokens
		t.Errorf("%+v, %v", c, err)
	}
	if diff := cmp.Diff([]string{"a", "aé"}, written); diff != "" {
		t.Error(diff)
	}
	requests := f.last().Requests()
	if n := len(requests); n != 3 || !requests[n-2].Stream || requests[n-1].Stream {
		t.Errorf("%d requests", n)
	}
}

// What is wrong with a streamed answer is an error, or the request is sent again.
func TestFaultsOfStreams(t *testing.T) {
	f := func(fault samplertest.Fault, want string) {
		t.Helper()
		s := newFakes()
		s.prepare = faultAt(1, fault)
		b, p := s.serve(t, Config{})
		_, _, err := watched(t, b, p)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", fault, err, want)
		}
	}
	f(samplertest.FaultWrongModel, "answers in place of")
	f(samplertest.FaultWrongIDs, "do not belong to")
	f(samplertest.FaultEmpty, "0 tokens")
	f(samplertest.FaultBusy, "")
	f(samplertest.FaultCut, "")
	f(samplertest.FaultGarbage, "")
}

// An error in the middle of a stream, and parts that are no JSON.
func TestStreamsThatFail(t *testing.T) {
	f := func(body, wantText, wantErr string) {
		t.Helper()
		seen := ""
		a, err := readStream(strings.NewReader(body), func(text string) { seen = text })
		if seen != wantText {
			t.Errorf("%q: %q was written", body, seen)
		}
		switch {
		case err == nil && wantErr == "" || err != nil && wantErr != "" && strings.Contains(err.Error(), wantErr):
		case err == nil && present(a.Error) && strings.Contains(string(a.Error), wantErr):
		default:
			t.Errorf("%q: %v, want %q", body, err, wantErr)
		}
	}
	const end = `data: {"content":"","tokens":[],"stop_type":"eos"}`
	f("data: {\"content\":\"a\"}\n\n: a comment\n\n"+end+"\n\n", "a", "")
	f(end, "", "")
	f("data: {\"content\":\"a\"}\n\n", "a", "breaks off")
	f("data: {\"content\":\"a\n\n", "", "incomplete")
	f("data: {\"content\":\"a\"}\n\ndata: {\"error\":{\"message\":\"no room\"}}\n\n", "a", "no room")
	f("data: "+strings.Repeat("x", 2*maxPart), "", "breaks off")
	f("", "", "breaks off")
}
