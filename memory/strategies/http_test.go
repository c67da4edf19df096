package strategies

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/memorytest"
)

// A remote is a memory in another process: it keeps tips by scope.
type remote struct {
	mu       sync.Mutex
	episodes map[string]HTTPEpisode
	order    []string
	fail     int // of the next requests
	status   int
	asked    []recallRequest
}

func (r *remote) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail > 0 {
		r.fail--
		http.Error(w, "not now", r.status)
		return
	}
	if request.URL.Path == "/learn" {
		var e HTTPEpisode
		if err := json.NewDecoder(request.Body).Decode(&e); err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		if _, known := r.episodes[e.ID]; !known {
			r.order = append(r.order, e.ID)
		}
		r.episodes[e.ID] = e
		w.Write([]byte("{}"))
		return
	}
	var q recallRequest
	_ = json.NewDecoder(request.Body).Decode(&q)
	r.asked = append(r.asked, q)
	tips := []map[string]any{}
	for i, id := range r.order {
		if e := r.episodes[id]; e.Scope == q.Scope {
			tips = append(tips, map[string]any{"id": i + 10, "text": e.Tip, "score": e.Score})
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"tips": tips, "similar": len(tips)})
}

func startRemote(t *testing.T) (*remote, string) {
	t.Helper()
	r := &remote{episodes: map[string]HTTPEpisode{}, status: 503}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, server.URL
}

func openRemote(t *testing.T, c HTTPConfig) *HTTP {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Second
	}
	h, err := OpenHTTP(t.Context(), memorytest.DB(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestMemoryOverHTTP(t *testing.T) {
	r, url := startRemote(t)
	h := openRemote(t, HTTPConfig{URL: url + "/", K: 2})
	without := 0.25
	x := memory.Experience{Scope: "house", States: []string{"a hall", "a cellar"}, Return: 0.5, Memory: true,
		WithoutTips: &without, Turns: []memory.Turn{{Action: "go", Reward: 0.5, Shown: []int64{7}}, {Action: "stay"}},
		Tip: memory.Tip{Text: " Go  north.\nand more", Score: 50, Step: 3, Group: 1, Episode: 2}}
	r.fail = 2 // requests are repeated while the server is not ready
	if err := h.Learn(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	want := HTTPEpisode{ID: h.run + "/3/1/2", Scope: "house", Tip: "Go north.", Score: 50, Return: 0.5, Memory: true,
		ReturnWithoutTips: &without, Turns: []HTTPTurn{{"a hall", "go", 0.5, []int64{7}}, {"a cellar", "stay", 0, []int64{}}}}
	if diff := cmp.Diff(map[string]HTTPEpisode{want.ID: want}, r.episodes); diff != "" {
		t.Errorf("the server got (-want +got):\n%s", diff)
	}
	// The step was not committed: the same episode is sent again, under the same name.
	if err := h.Learn(t.Context(), x); err != nil || len(r.order) != 1 {
		t.Errorf("sent again: %v, episodes %v", err, r.order)
	}
	if err := memorytest.Commit(t.Context(), h.db, h, true); err != nil {
		t.Fatal(err)
	}
	delete(r.episodes, want.ID)
	if err := h.Learn(t.Context(), x); err != nil || len(r.episodes) != 0 {
		t.Errorf("an episode that is committed was sent again: %v, %v", err, r.episodes)
	}
	r.episodes[want.ID] = want
	got, err := h.Recall(t.Context(), memory.State{Scope: "house", Text: "a hall", Seed: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(memory.Recollection{Similar: 1, Tips: []memory.Tip{
		{ID: 10, Scope: "house", Text: "Go north.", Score: 50}}}, got); diff != "" {
		t.Errorf("recollection (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]recallRequest{{"house", "a hall", 2, 1 << 49}}, r.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if again, err := OpenHTTP(t.Context(), h.db, HTTPConfig{URL: url, K: 1, Timeout: time.Second}); err != nil ||
		again.run != h.run {
		t.Errorf("the name of the run changed: %v", err)
	}
}

func TestFaultsOfAMemoryOverHTTP(t *testing.T) {
	f := func(answer string, status int, want ...string) {
		t.Helper()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			w.Write([]byte(answer))
		}))
		defer server.Close()
		h := openRemote(t, HTTPConfig{URL: server.URL, Key: "sesame", K: 2, Timeout: 300 * time.Millisecond})
		_, err := h.Recall(t.Context(), memory.State{Scope: "s", Text: "a hall"})
		for _, part := range append(want, server.URL, "hint: ") {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s with %d: %v, want %q", answer, status, err, part)
			}
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("the key is shown: %v", err)
		}
	}
	f("{}", 401, "401", "hint")
	f("no JSON", 200, "/recall")
	f(`{"error": "out of order"}`, 500, "out of order", "memory.http.timeout_seconds")
	f(`{"tips": "many"}`, 200, "/recall")

	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the end of the connection is not seen
		<-r.Context().Done()
	}))
	defer slow.Close()
	h := openRemote(t, HTTPConfig{URL: slow.URL, K: 2, Timeout: 50 * time.Millisecond})
	if _, err := h.Recall(t.Context(), memory.State{Scope: "s"}); err == nil || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("a server that does not answer: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Learn(ended, memory.Experience{Scope: "s"}); err == nil {
		t.Error("learnt although the run has ended")
	}
}

// Tips without ids have those of their texts, and no more than k are shown.
func TestTipsWithoutIDs(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"tips": [{"text": "a"}, {"text": "\n"}, {"text": "b"}, {"text": "c"}]}`))
	}))
	defer server.Close()
	h := openRemote(t, HTTPConfig{URL: server.URL, K: 3})
	first, err := h.Recall(t.Context(), memory.State{Scope: "s", Text: "x"})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, tip := range first.Tips {
		texts = append(texts, tip.Text)
		if tip.ID <= 0 || tip.ID >= 1<<53 {
			t.Errorf("id %d", tip.ID)
		}
	}
	again, err := h.Recall(t.Context(), memory.State{Scope: "s", Text: "y"})
	if !slices.Equal(texts, []string{"a", "b"}) || !cmp.Equal(first, again) || err != nil {
		t.Errorf("tips %v, then %v, %v", first, again, err)
	}
}

// scripts/example_memory.py is a whole memory.
func TestExampleMemory(t *testing.T) {
	python := os.Getenv("EMPO2_PYTHON")
	if python == "" {
		t.Skip("NOT RUN: EMPO2_PYTHON names no Python; scripts/test sets it")
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, python, "../../scripts/example_memory.py")
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = server.Wait() // killed
	}()
	address := bufio.NewScanner(out)
	if !address.Scan() {
		t.Fatal("the server prints no address")
	}
	h := openRemote(t, HTTPConfig{URL: address.Text(), K: 2})
	for n, value := range []float64{0.2, 0.9, 0.5, 0.9} {
		x := memory.Experience{Scope: "s", Return: value, Tip: memory.Tip{Text: fmt.Sprint("tip ", n), Step: 1,
			Episode: min(n, 2)}}
		if err := h.Learn(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	got, err := h.Recall(t.Context(), memory.State{Scope: "s", Text: "a hall"})
	var texts []string
	for _, tip := range got.Tips {
		texts = append(texts, tip.Text)
	}
	if err != nil || !slices.Equal(texts, []string{"tip 1", "tip 3"}) { // 3 replaced 2: the same episode
		t.Errorf("tips %v, %v", texts, err)
	}
	if got, err := h.Recall(t.Context(), memory.State{Scope: "other"}); err != nil || len(got.Tips) > 0 {
		t.Errorf("in another scope: %v, %v", got, err)
	}
}
