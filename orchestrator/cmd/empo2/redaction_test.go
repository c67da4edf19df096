package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
)

// A server that repeats the key in an error, a header or a redirect: no backend shows it in its error, its log or its
// events.
func TestNoBackendShowsTheKey(t *testing.T) {
	const key = `sk-live/7+Q"z9`
	t.Setenv("EMPO2_SERVER_KEY", key)
	quoted, err := json.Marshal("wrong key: " + key)
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"body": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error": {"message": %s, "code": %s}}`, quoted, quoted)
		},
		"header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", key)
			w.WriteHeader(http.StatusForbidden)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://other.example/?key="+url.QueryEscape(key), http.StatusFound)
		},
	} {
		server := httptest.NewServer(http.HandlerFunc(answer))
		for _, backend := range []string{"vllm", "sglang", "openai"} {
			sets := []string{"sampler.backend=" + backend, "sampler.served_model_name=m"}
			if backend == "openai" {
				sets = append(sets, "algorithm.name=adapt", "sampler.openai.url="+server.URL)
			} else {
				sets = append(sets, fmt.Sprintf("sampler.%s.urls=[%q]", backend, server.URL))
			}
			c, err := config.Source{Profile: config.Demo, Sets: sets}.Load()
			if err != nil {
				t.Fatal(err)
			}
			var shown bytes.Buffer
			s, err := backends[backend].open(t.Context(), opening{config: c, codec: &trainerCodec{}, log: zerolog.New(&shown),
				event: func(kind, detail string) { fmt.Fprintln(&shown, kind, detail) }})
			if err == nil {
				s.Close()
				t.Errorf("%s, %s: no error", backend, name)
				continue
			}
			fmt.Fprintln(&shown, err)
			if strings.Contains(shown.String(), "live/7") || strings.Contains(shown.String(), "live%2F7") ||
				name == "body" && !strings.Contains(shown.String(), "wrong key: [key]") {
				t.Errorf("%s, %s: %s", backend, name, &shown)
			}
		}
		server.Close()
	}
}
