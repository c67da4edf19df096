package embed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
)

// direct passes requests to a handler without a network, so that time can be
// faked.
type direct func(http.ResponseWriter, *http.Request)

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	d(recorder, r)
	if err := context.Cause(r.Context()); err != nil {
		return nil, err
	}
	return recorder.Result(), nil
}

// protocol is the difference between the two servers.
type protocol struct {
	open   func(context.Context, embed.Server) (memory.Embedder, error)
	path   string
	name   string
	answer func(vectors [][]float32) any
}

var protocols = map[string]protocol{
	"openai": {
		open: func(ctx context.Context, s embed.Server) (memory.Embedder, error) { return embed.OpenOpenAI(ctx, s) },
		path: "/v1/embeddings",
		name: "openai:mini-2",
		answer: func(vectors [][]float32) any {
			data := []map[string]any{}
			for i := range vectors { // in reverse order, as the index decides
				i = len(vectors) - 1 - i
				data = append(data, map[string]any{"index": i, "embedding": vectors[i]})
			}
			return map[string]any{"object": "list", "data": data}
		},
	},
	"ollama": {
		open:   func(ctx context.Context, s embed.Server) (memory.Embedder, error) { return embed.OpenOllama(ctx, s) },
		path:   "/api/embed",
		name:   "ollama:mini-2",
		answer: func(vectors [][]float32) any { return map[string]any{"model": "mini", "embeddings": vectors} },
	},
}

// fake is an embedding server. The vector of a text of n bytes is (n, 1). Each
// entry of fail answers one request instead.
type fake struct {
	protocol
	t     *testing.T
	fail  []direct
	calls int
	sizes []int // texts per answered request
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.calls++
	if len(f.fail) > 0 {
		fail := f.fail[0]
		f.fail = f.fail[1:]
		fail(w, r)
		return
	}
	var request struct {
		Model string   `json:"model"`
		Input []string `json:"input"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		f.t.Errorf("request: %v", err)
	}
	if r.URL.Path != f.path || request.Model != "mini" {
		f.t.Errorf("request of %s for model %q", r.URL.Path, request.Model)
	}
	f.sizes = append(f.sizes, len(request.Input))
	vectors := [][]float32{}
	for _, text := range request.Input {
		vectors = append(vectors, []float32{float32(len(text)), 1})
	}
	f.write(w, vectors)
}

func (f *fake) write(w http.ResponseWriter, vectors [][]float32) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(f.answer(vectors)); err != nil {
		f.t.Error(err)
	}
}

func status(code int) direct {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		io.WriteString(w, `{"error":"not now"}`)
	}
}

func (f *fake) server() embed.Server {
	return embed.Server{URL: "http://embedder.test/", Model: "mini", Batch: 3, Attempts: 3,
		Timeout: 10 * time.Second, Transport: direct(f.serve)}
}

// each runs a test with both protocols, in faked time.
func each(t *testing.T, test func(t *testing.T, f *fake)) {
	for name, p := range protocols {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, &fake{protocol: p, t: t}) })
		})
	}
}

func (f *fake) mustOpen() memory.Embedder {
	f.t.Helper()
	e, err := f.open(f.t.Context(), f.server())
	if err != nil {
		f.t.Fatal(err)
	}
	f.calls, f.sizes = 0, nil
	return e
}

func TestServersEmbedInBatches(t *testing.T) {
	each(t, func(t *testing.T, f *fake) {
		e := f.mustOpen()
		if e.Name() != f.name {
			t.Errorf("name %q, want %q", e.Name(), f.name)
		}
		texts := strings.Split("a,bb,,ccc,dddd,eeeee", ",")
		vectors, err := e.Embed(t.Context(), texts...)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range vectors {
			if texts[i] == "" {
				if diff := cmp.Diff([]float32{0, 0}, v); diff != "" {
					t.Errorf("an empty text:\n%s", diff)
				}
				continue
			}
			diff, length := v[0]/v[1]-float32(len(texts[i])), dot(v, v)
			if diff*diff > 1e-6 || length < 0.9999 || length > 1.0001 {
				t.Errorf("%q has vector %v", texts[i], v)
			}
		}
		if diff := cmp.Diff([]int{3, 2}, f.sizes); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
	})
}

func TestRequestsAreRepeatedAfterTransientErrors(t *testing.T) {
	each(t, func(t *testing.T, f *fake) {
		e := f.mustOpen()
		start := time.Now()
		f.fail = []direct{status(429), status(503)}
		if _, err := e.Embed(t.Context(), "a"); err != nil || f.calls != 3 {
			t.Errorf("error %v after %d requests, want an answer to the third", err, f.calls)
		}
		if took := time.Since(start); took < 500*time.Millisecond || took > time.Second {
			t.Errorf("the pauses took %v", took)
		}
		f.fail, f.calls = []direct{status(500), status(500), status(500)}, 0
		want := "after 3 attempts: POST " + f.path + ": the server answers 500"
		if _, err := e.Embed(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v after %d requests, want to give up at the third", err, f.calls)
		}
		f.fail, f.calls = []direct{status(404)}, 0
		_, err := e.Embed(t.Context(), "a")
		if err == nil || !strings.Contains(err.Error(), "404") || !strings.Contains(err.Error(), "not now") || f.calls != 1 {
			t.Errorf("error %v after %d requests, want one refusal with its text", err, f.calls)
		}
	})
}

// A server that begins to answer with another model is refused, because its vectors cannot be compared.
func TestTheModelMustNotChange(t *testing.T) {
	each(t, func(t *testing.T, f *fake) {
		e, models := f.mustOpen(), []string{"mini-v1", "", "mini-v1", "large"}
		for i, model := range models {
			f.fail = []direct{func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"model": %q, "data": [{"index": 0, "embedding": [1, 1]}], "embeddings": [[1, 1]]}`, model)
			}}
			if f.name == protocols["ollama"].name && model != "large" { // it has answered as mini
				f.fail = nil
			}
			_, err := e.Embed(t.Context(), "a")
			if wrong := i == len(models)-1; wrong != (err != nil) ||
				wrong && !strings.Contains(err.Error(), `"large" answers`) {
				t.Errorf("answer %d, of %q: %v", i, model, err)
			}
		}
	})
}

// A text that is longer than the server's context is embedded by its beginning. Texts that fit stay whole.
func TestLongTextsAreCut(t *testing.T) {
	each(t, func(t *testing.T, f *fake) {
		e := f.mustOpen()
		full := func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"error": "the input length (700 tokens) exceeds the context length (512)"}`)
		}
		f.fail = []direct{full, full}
		vectors, err := e.Embed(t.Context(), strings.Repeat("x", 1000), "bb")
		if err != nil || f.calls != 3 {
			t.Fatalf("%d requests, %v", f.calls, err)
		}
		for i, want := range []float32{250, 2} { // the fake's vectors have the length of the text
			if got := vectors[i][0] / vectors[i][1]; got < want*0.999 || got > want*1.001 {
				t.Errorf("text %d: %v characters were embedded, want %v", i, got, want)
			}
		}
		f.fail, f.calls = []direct{full, full, full, full, full, full, full, full}, 0
		if _, err := e.Embed(t.Context(), strings.Repeat("x", 1000)); err == nil || f.calls != 4 {
			t.Errorf("%d requests, %v; want the refusal of 125 characters", f.calls, err)
		}
	})
}

func TestServersHaveADeadline(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	each(t, func(t *testing.T, f *fake) {
		e := f.mustOpen()
		f.fail = []direct{hang, hang, hang}
		_, err := e.Embed(t.Context(), "a")
		if err == nil || !strings.Contains(err.Error(), "no answer within 10s") || f.calls != 3 {
			t.Errorf("error %v after %d requests", err, f.calls)
		}
		why := errors.New("the run was stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		f.fail, f.calls = []direct{hang}, 0
		time.AfterFunc(time.Second, func() { cancel(why) })
		if _, err := e.Embed(ctx, "a"); !errors.Is(err, why) || f.calls != 1 {
			t.Errorf("error %v after %d requests, want %v after one", err, f.calls, why)
		}
	})
}

func TestAnswersOfAServerAreChecked(t *testing.T) {
	each(t, func(t *testing.T, f *fake) {
		e := f.mustOpen()
		refuse := func(want string, vectors ...[]float32) {
			t.Helper()
			f.calls = 0
			f.fail = []direct{func(w http.ResponseWriter, _ *http.Request) { f.write(w, vectors) }}
			_, err := e.Embed(t.Context(), "a", "bb")
			if err == nil || !strings.Contains(err.Error(), want) || f.calls != 1 {
				t.Errorf("error %v after %d requests, want one with %q", err, f.calls, want)
			}
		}
		refuse("1 vectors for 2 texts", []float32{1, 0})
		refuse("has 3 dimensions, want 2", []float32{1, 0}, []float32{1, 0, 0})
		refuse("has length 0", []float32{1, 0}, []float32{0, 0})
	})
}

func TestOpeningAnUnusableEmbedder(t *testing.T) {
	each(t, func(t *testing.T, f *fake) {
		f.fail = []direct{status(404)}
		if _, err := f.open(t.Context(), f.server()); err == nil || !strings.Contains(err.Error(), "is the server running") {
			t.Errorf("error %v, want one with a hint", err)
		}
		if _, err := f.open(t.Context(), embed.Server{Model: "mini"}); err == nil || !strings.Contains(err.Error(), "URL") {
			t.Errorf("error %v without a URL", err)
		}
		_, err := f.open(t.Context(), embed.Server{URL: "http://x"})
		if err == nil || !strings.Contains(err.Error(), "model") {
			t.Errorf("error %v without a model", err)
		}
	})
}

func TestOpenAISendsItsKey(t *testing.T) {
	f := &fake{protocol: protocols["openai"], t: t}
	s := f.server()
	s.APIKey = "key"
	seen := ""
	s.Transport = direct(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Get("Authorization")
		f.serve(w, r)
	})
	if _, err := embed.OpenOpenAI(t.Context(), s); err != nil || seen != "Bearer key" {
		t.Errorf("authorization %q, error %v", seen, err)
	}
}

// A server that repeats the key in its refusal does not make us print it.
func TestTheKeyIsNotInErrors(t *testing.T) {
	f := &fake{protocol: protocols["openai"], t: t}
	s := f.server()
	s.APIKey = "sk-secret"
	s.Transport = direct(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, "unknown: "+r.Header.Get("Authorization"))
	})
	_, err := embed.OpenOpenAI(t.Context(), s)
	if err == nil || strings.Contains(err.Error(), "sk-secret") ||
		!strings.Contains(err.Error(), "unknown: Bearer [key]") {
		t.Errorf("got %v", err)
	}
}

func TestCloseReleasesConnections(t *testing.T) {
	for name, p := range protocols {
		t.Run(name, func(t *testing.T) {
			f := &fake{protocol: p, t: t}
			real := httptest.NewServer(http.HandlerFunc(f.serve))
			defer real.Close()
			e, err := p.open(t.Context(), embed.Server{URL: real.URL, Model: "mini"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Embed(t.Context(), "a", "bb"); err != nil {
				t.Error(err)
			}
			if err := e.(io.Closer).Close(); err != nil { // goleak sees what is left
				t.Error(err)
			}
		})
	}
}
