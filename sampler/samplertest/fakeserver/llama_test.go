package fakeserver

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// post sends a body and returns the status and the body of the answer.
func post(t *testing.T, s *Llama, path, body string) (int, []byte, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.Client().Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, data, err
}

func newServer(t *testing.T) *Llama {
	s := NewLlama(samplertest.Policy{Tokenizer: samplertest.NewTokenizer(" jade", "pull"), Script: branching}, 3)
	t.Cleanup(s.Close)
	return s
}

func TestServerSamplesFromTheScript(t *testing.T) {
	s := newServer(t)
	status, body, err := post(t, s, "/completion",
		`{"prompt":[1,50,2],"n_predict":60,"temperature":1,"seed":9,"n_probs":1,"return_tokens":true}`)
	if err != nil || status != http.StatusOK {
		t.Fatal(status, string(body), err)
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatal(err)
	}
	want := s.Policy.Sample(3, sampler.Request{Prompt: []int32{1, 50, 2}, MaxTokens: 60, Temperature: 1, Seed: 9})
	if diff := cmp.Diff(want.IDs, a.Tokens); diff != "" {
		t.Error(diff)
	}
	for i, p := range a.Probabilities {
		if p.ID != want.IDs[i] || *p.Logprob != want.Logprobs[i] {
			t.Errorf("entry %d: %d %v", i, p.ID, *p.Logprob)
		}
	}
	if a.Content != want.Text || a.Model != samplertest.Name(3) || a.StopType != "eos" {
		t.Errorf("%+v", a)
	}
}

func TestServerStreams(t *testing.T) {
	s := newServer(t)
	_, body, err := post(t, s, "/completion",
		`{"prompt":[1],"n_predict":3,"temperature":0,"n_probs":1,"return_tokens":true,"stream":true}`)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int32
	events := bytes.Split(bytes.TrimSpace(body), []byte("\n\n"))
	for _, e := range events {
		var a answer
		if err := json.Unmarshal(bytes.TrimPrefix(e, []byte("data: ")), &a); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, a.Tokens...)
	}
	want := s.Policy.Sample(3, sampler.Request{Prompt: []int32{1}, MaxTokens: 3})
	if diff := cmp.Diff(want.IDs, ids); diff != "" || len(events) != len(ids)+1 {
		t.Errorf("%d events: %s", len(events), diff)
	}
}

func TestParseSpecialDecidesAboutControlTokens(t *testing.T) {
	s := newServer(t)
	f := func(body, want string) {
		t.Helper()
		if _, got, err := post(t, s, "/tokenize", body); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %s, %v; want %s", body, got, err, want)
		}
	}
	f(`{"content":"<|im_start|>pull<|im_end|>"}`, `{"tokens":[1,260,2]}`)
	f(`{"content":"pull jade","parse_special":false}`, `{"tokens":[260,259]}`)
	f(`{"content":"pull jade","with_pieces":true}`, `{"tokens":[{"id":260,"piece":"pull"},{"id":259,"piece":" jade"}]}`)
	f(`{"content":"","parse_special":false}`, `{"tokens":[]}`)
}

func TestServerRefusesInvalidRequests(t *testing.T) {
	s := newServer(t)
	s.Context = 4
	f := func(body, kind string) {
		t.Helper()
		status, got, err := post(t, s, "/completion", body)
		if err != nil || status != http.StatusBadRequest || !strings.Contains(string(got), kind) {
			t.Errorf("%s: %d %s %v", body, status, got, err)
		}
	}
	f(`{"prompt":[1,2,3,4,5]}`, "exceed_context_size_error")
	f(`{"prompt":[1,9999]}`, "invalid tokens")
	f(`{"prompt":`, "parse error")
	f(`{"prompt":{}}`, "prompt")
}

func TestServerFaults(t *testing.T) {
	const body = `{"prompt":[1],"n_predict":2,"temperature":0,"n_probs":1,"return_tokens":true}`
	f := func(fault samplertest.Fault, status int, has string, broken bool) {
		t.Helper()
		s := newServer(t)
		s.Fault = func(n int) samplertest.Fault {
			if n == 0 {
				return fault
			}
			return ""
		}
		gotStatus, got, err := post(t, s, "/completion", body)
		if (err != nil) != broken || gotStatus != status || !strings.Contains(string(got), has) {
			t.Errorf("%s: %d %s %v", fault, gotStatus, got, err)
		}
		if gotStatus, _, err := post(t, s, "/completion", body); err != nil || gotStatus != http.StatusOK {
			t.Errorf("after %s: %d, %v", fault, gotStatus, err)
		}
	}
	f(samplertest.FaultBusy, http.StatusServiceUnavailable, "Loading model", false)
	f(samplertest.FaultGarbage, http.StatusOK, "html", false)
	f(samplertest.FaultCut, http.StatusOK, "", true)
	f(samplertest.FaultNaN, http.StatusOK, `"logprob":null`, false)
	f(samplertest.FaultWrongModel, http.StatusOK, samplertest.Name(4), false)
	f(samplertest.FaultEmpty, http.StatusOK, `"tokens":[]`, false)
	f(samplertest.FaultBadID, http.StatusOK, "268", false)
}

// branching is a script with several texts that have a common beginning.
func branching(version int, _ []int32) []samplertest.Choice {
	return []samplertest.Choice{{Text: "pull jade", Weight: 3}, {Text: "pull amber", Weight: 1 + float64(version)},
		{Text: "pull", Weight: 1}}
}
