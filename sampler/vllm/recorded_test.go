package vllm

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/fleet"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func post(t testing.TB, url string) {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
}

// exchange is one line of a recording of a real vLLM 0.32.0.
type exchange struct {
	Name    string
	Request struct {
		Body json.RawMessage `json:"body"`
	} `json:"request"`
	Response struct {
		Status int             `json:"status"`
		Body   json.RawMessage `json:"body"`
		Text   *string         `json:"body_text"`
	} `json:"response"`
}

// body returns the body of the answer, with the original bytes except white space.
func (e exchange) body() []byte {
	if e.Response.Text != nil {
		return []byte(*e.Response.Text)
	}
	return e.Response.Body
}

// recorded reads the recordings, which are not part of the repository.
func recorded(t *testing.T) map[string]exchange {
	t.Helper()
	root := os.Getenv("EMPO2_RECORDINGS")
	if root == "" {
		root = "../../../shared/fixtures/servers"
	}
	f, err := os.Open(filepath.Join(root, "vllm", "walk.jsonl"))
	if err != nil {
		t.Skip("NOT TESTED against recordings of a real vLLM: EMPO2_RECORDINGS names no folder with vllm/walk.jsonl")
	}
	defer f.Close()
	all := map[string]exchange{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		var e exchange
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		all[e.Name] = e
	}
	return all
}

// replay returns the client of a server that gives one recorded answer to all
// requests.
func replay(t *testing.T, e exchange) *server {
	t.Helper()
	if e.Response.Status == 0 {
		t.Fatalf("no such recording: %+v", e)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(e.Response.Status)
		w.Write(e.body())
	}))
	t.Cleanup(s.Close)
	c := &server{Client: &fleet.Client{HTTP: fleet.NewHTTP(s.URL, "", 1)}}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRecordedCompletions(t *testing.T) {
	all := recorded(t)
	for _, name := range []string{"completion_base", "completion_v1", "completion_greedy", "completion_temp05",
		"completion_cache_salt", "completion_force_eos"} {
		var asked completionRequest
		if err := json.Unmarshal(all[name].Request.Body, &asked); err != nil {
			t.Fatal(name, err)
		}
		a, err := replay(t, all[name]).Complete(t.Context(), asked.Model,
			sampler.Request{Prompt: asked.Prompt, MaxTokens: asked.MaxTokens})
		if err != nil || a.Model != asked.Model || len(a.IDs) == 0 || len(a.IDs) != len(a.Logprobs) ||
			a.Prompt != len(asked.Prompt) || a.Finish == "" {
			t.Errorf("%s: %+v %v", name, a, err)
		}
	}
	_, err := replay(t, all["completion_batch_prompts"]).Complete(t.Context(), "run-v000001",
		sampler.Request{Prompt: []int32{1}, MaxTokens: 2})
	if err == nil {
		t.Error("two choices were accepted as one")
	}
}

func TestRecordedRefusals(t *testing.T) {
	all := recorded(t)
	complete := func(name string) error {
		_, err := replay(t, all[name]).Complete(t.Context(), "x", sampler.Request{Prompt: []int32{1}, MaxTokens: 1})
		return err
	}
	for name, want := range map[string]error{
		"err_unknown_model": fleet.ErrUnknownModel, "completion_after_unload": fleet.ErrUnknownModel,
		"err_prompt_too_long": sampler.ErrContextFull,
	} {
		if err := complete(name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"err_bad_temperature", "err_token_out_of_vocab", "err_logprobs_too_many",
		"err_empty_prompt"} {
		if err := complete(name); jsonhttp.Status(err) != 400 || errors.Is(err, fleet.ErrLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, hint := range map[string]string{
		"load_rank_too_large": "--max-lora-rank", "load_missing_path": "reads the directory itself",
		"load_duplicate": "", "err_unknown_route": "--enable-lora",
	} {
		err := replay(t, all[name]).LoadAdapter(t.Context(), "x", "/x")
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := replay(t, all["unload_unknown"]).UnloadAdapter(t.Context(), "x"); jsonhttp.Status(err) != 404 {
		t.Error(err)
	}
}

func TestRecordedSuccesses(t *testing.T) {
	all := recorded(t)
	for name, f := range map[string]func(*server) error{
		"health":    func(s *server) error { return s.Health(t.Context()) },
		"load_v1":   func(s *server) error { return s.LoadAdapter(t.Context(), "x", "/x") },
		"unload_v2": func(s *server) error { return s.UnloadAdapter(t.Context(), "x") },
		"sleep_l1":  func(s *server) error { return s.Sleep(t.Context()) },
	} {
		if err := f(replay(t, all[name])); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	adapters, err := replay(t, all["models_two_adapters"]).Adapters(t.Context())
	if err != nil || !maps.Equal(adapters,
		map[string]string{"run-v000001": "/adapters/v1", "run-v000002": "/adapters/v2"}) {
		t.Error(adapters, err)
	}
	if l, err := replay(t, all["metrics"]).Load(t.Context()); err != nil || l != (fleet.Load{}) {
		t.Error(l, err)
	}
	if ids, err := replay(t, all["tokenize_text"]).Tokenize(t.Context(), "the abc 100"); err != nil || len(ids) != 9 {
		t.Error(ids, err)
	}
}

// The fake server gives no fields that the real server does not give.
func TestTheFakeHasTheFieldsOfTheRecording(t *testing.T) {
	all := recorded(t)
	fake := fakeserver.NewVLLM(policy)
	defer fake.Close()
	r, err := http.Post(fake.URL+"/v1/completions", "application/json",
		strings.NewReader(`{"model":"tiny","prompt":[1,50,2],"max_tokens":4,"logprobs":1,"return_token_ids":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	want, got := keys(t, all["completion_base"].body()), keys(t, text)
	for _, key := range got {
		if !slices.Contains(want, key) {
			t.Errorf("the fake answer has %s, the recorded answer does not", key)
		}
	}
}

// keys returns the paths of an answer's fields.
func keys(t *testing.T, text []byte) (paths []string) {
	t.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	var walk func(string, any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, inner := range v {
				paths = append(paths, at+"."+key)
				walk(at+"."+key, inner)
			}
		case []any:
			if len(v) > 0 {
				walk(at+"[]", v[0])
			}
		}
	}
	walk("", value)
	return paths
}
