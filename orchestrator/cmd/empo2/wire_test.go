package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A recorder remembers the requests that have a seed, as they were on the wire. Such
// requests sample.
type recorder struct {
	mu   sync.Mutex
	sent []map[string]any
	file io.Writer // gets each request as a line too; nil: none does
}

// before starts a server that records requests and passes them on to another one.
func (r *recorder) before(t *testing.T, address string) (at string) {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r.handler(to))
	t.Cleanup(server.Close)
	return server.URL
}

func (r *recorder) handler(to *url.URL) http.Handler {
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.FlushInterval = -1 // answers may be streamed
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			return // the client has gone
		}
		q.Body = io.NopCloser(bytes.NewReader(body))
		if sent := decodeRequest(body); seedOnWire(sent) != "" {
			r.mu.Lock()
			r.sent = append(r.sent, sent)
			if r.file != nil {
				_, _ = r.file.Write(append(body, '\n')) // the test misses what is lost
			}
			r.mu.Unlock()
		}
		proxy.ServeHTTP(w, q)
	})
}

// take returns the requests since the last call by their seeds.
func (r *recorder) take() map[string]map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]map[string]any{}
	for _, sent := range r.sent {
		out[seedOnWire(sent)] = sent
	}
	r.sent = nil
	return out
}

// decodeRequest decodes the body of a request; nil: it is no JSON object.
func decodeRequest(body []byte) (out map[string]any) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber() // a seed has 63 bits
	if decoder.Decode(&out) != nil {
		return nil
	}
	return out
}

// seedOnWire returns the seed of a request as each server names it, "" if it has none.
func seedOnWire(body map[string]any) string {
	inner := func(name string) map[string]any {
		m, _ := body[name].(map[string]any)
		return m
	}
	for _, seed := range []any{body["seed"], inner("sampling_params")["sampling_seed"], inner("options")["seed"]} {
		if n, ok := seed.(json.Number); ok {
			return n.String()
		}
	}
	return ""
}

// sameRequests compares what try sent with what the run sent for the same seeds. It
// returns the number of requests.
func sameRequests(t *testing.T, what string, run, try map[string]map[string]any) (n int) {
	t.Helper()
	for seed, again := range try {
		if before, known := run[seed]; known { // else it is a probe of the backend
			n++
			sameRequest(t, what, before, again)
		}
	}
	return n
}

// sameRequest compares two requests. Names of versions and salts of caches may differ.
func sameRequest(t *testing.T, what string, before, again map[string]any) {
	t.Helper()
	for _, name := range []string{"model", "cache_salt", "lora_path", "id_slot"} {
		delete(before, name)
		delete(again, name)
	}
	if diff := cmp.Diff(before, again); diff != "" {
		t.Errorf("%s: the run sent something else: %s", what, diff)
	}
}

// The variables of recordingServer.
const (
	recordFile    = "RECORD_FILE"
	recordProgram = "RECORD_PROGRAM"
	recordScript  = "RECORD_SCRIPT" // the program's first argument
)

// recordingServer has the command line of llama-server. It starts a real one and writes
// the requests that sample to a file.
func recordingServer() {
	if err := serveAndRecord(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "recording server:", err)
		os.Exit(1)
	}
}

func serveAndRecord(args []string) error {
	file, err := os.OpenFile(os.Getenv(recordFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	free := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return err
	}
	at := slices.Index(args, "--port") + 1
	own := args[at]
	_, args[at], _ = strings.Cut(free, ":")
	server := exec.Command(os.Getenv(recordProgram), append([]string{os.Getenv(recordScript)}, args...)...)
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	if err := server.Start(); err != nil {
		return err
	}
	r := &recorder{file: file}
	go func() { _ = http.ListenAndServe("127.0.0.1:"+own, r.handler(&url.URL{Scheme: "http", Host: free})) }()
	return server.Wait()
}

// readRecorded returns the requests in a file of recordingServer, after a position.
func readRecorded(t *testing.T, path string, from int) (by map[string]map[string]any, end int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	by = map[string]map[string]any{}
	for line := range bytes.Lines(text[from:]) {
		sent := decodeRequest(line)
		by[seedOnWire(sent)] = sent
	}
	return by, len(text)
}
