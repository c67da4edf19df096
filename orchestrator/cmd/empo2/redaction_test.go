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
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// faultsWithKey are answers of a server that repeats the key in an error, a header or a redirect.
func faultsWithKey(t *testing.T, key string) map[string]http.HandlerFunc {
	t.Helper()
	quoted, err := json.Marshal("wrong key: " + key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]http.HandlerFunc{
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
	}
}

// checkShown fails if the key is in a text, or if the text does not say where it was left out.
func checkShown(t *testing.T, of, fault, shown string) {
	t.Helper()
	if strings.Contains(shown, "live/7") || strings.Contains(shown, "live%2F7") ||
		fault == "body" && !strings.Contains(shown, "wrong key: [key]") {
		t.Errorf("%s, %s: %s", of, fault, shown)
	}
}

// A trainer elsewhere repeats its key: neither the probe nor the run shows it.
func TestNoTrainerShowsTheKey(t *testing.T) {
	const key = `sk-live/7+Q"z9`
	t.Setenv(trainerbridge.KeyVariable, key)
	for name, answer := range faultsWithKey(t, key) {
		server := httptest.NewServer(answer)
		var shown bytes.Buffer
		config := trainerbridge.ClientConfig{URL: strings.Replace(server.URL, "://", "://user:live%2F7@", 1),
			Token: trainerKey(), Rank: 4, Alpha: 8, Log: zerolog.New(&shown)}
		_, probed := trainerbridge.Detect(t.Context(), config)
		_, dialled := trainerbridge.Dial(t.Context(), config)
		if probed == nil || dialled == nil {
			t.Errorf("%s: no error: %v, %v", name, probed, dialled)
		}
		fmt.Fprintln(&shown, probed, dialled)
		checkShown(t, "trainer", name, shown.String())
		server.Close()
	}
}

// A server that repeats the key: no backend shows it in its error, its log or its events.
func TestNoBackendShowsTheKey(t *testing.T) {
	const key = `sk-live/7+Q"z9`
	t.Setenv("EMPO2_SERVER_KEY", key)
	for name, answer := range faultsWithKey(t, key) {
		server := httptest.NewServer(answer)
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
			checkShown(t, backend, name, shown.String())
		}
		server.Close()
	}
}
