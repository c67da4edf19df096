package page

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// large writes a run of n episodes, 64 in a step. Half of them see two of 5,000 tips.
func large(b *testing.B, n int) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "large")
	w := record(b, dir)
	if _, err := w.DB().Exec("PRAGMA synchronous = OFF"); err != nil {
		b.Fatal(err)
	}
	sample := func(i int, m orchestrator.Mode) ledger.Episode {
		e := played(int64(i/64+1), i/16%4, i%16, fmt.Sprint("task-", i/16%20), float64(i*7919%3)/2)
		e.Turns = append(e.Turns, e.Turns[0], e.Turns[0])
		if m != orchestrator.OnPolicy {
			e = showing(showing(e, prompt.Tip{ID: 1, Text: fmt.Sprint("tip ", i*31%5000)}),
				prompt.Tip{ID: 2, Text: fmt.Sprint("tip ", i*37%5000)})
		}
		e.Tip = fmt.Sprint("tip ", i%5000)
		p, err := rollout.Pack(e)
		if err != nil {
			b.Fatal(err)
		}
		out := ledger.Episode{Step: e.Step, Group: e.Group, Episode: e.Episode, Task: e.Task.ID, Mode: string(m),
			Stop: string(e.Stop), EnvReturn: e.EnvReturn, Success: e.Success, Version: i / 64, At: "2026-01-02T03:04:05Z",
			Trajectory: p.JSON, Tokens: p.Tokens, Logprobs: p.Logprobs}
		if out.Facts, err = orchestrator.FactsOf(out); err != nil {
			b.Fatal(err)
		}
		return out
	}
	for i := range n {
		mode := []orchestrator.Mode{orchestrator.OnPolicy, orchestrator.OffPolicy}[i%2]
		if err := w.AddEpisode(context.Background(), sample(i, mode)); err != nil {
			b.Fatal(err)
		}
		if i%64 == 63 {
			w.commit(orchestrator.StepMetrics{Step: int64(i/64 + 1), Version: i/64 + 1, Episodes: i + 1,
				Replies: orchestrator.Replies{N: 192}, Free: orchestrator.EpisodeStats{N: 32}, Trained: 1000})
		}
	}
	w.Close()
	return dir
}

// BenchmarkLargeRun measures the answers for a run of 100,000 episodes. EMPO2_BENCH_RUN
// names a run that takes the place of the one that the benchmark writes.
func BenchmarkLargeRun(b *testing.B) {
	dir := os.Getenv("EMPO2_BENCH_RUN")
	if dir == "" {
		dir = large(b, 100_000)
	}
	p := New(Options{Roots: []string{dir}})
	defer p.Close()
	run := "/api/runs/" + filepath.Base(dir) + "/"
	ask := func(b *testing.B, paths ...string) {
		b.Helper()
		size := 0
		for _, path := range paths {
			r := httptest.NewRequest("GET", path, nil)
			r.Host = "localhost"
			w := httptest.NewRecorder()
			if p.ServeHTTP(w, r); w.Code != http.StatusOK {
				b.Fatalf("%s: %s", path, w.Body)
			}
			size += w.Body.Len()
		}
		b.ReportMetric(float64(size)/1024, "kB-answer")
	}
	first := []string{"/api/runs", run + "now", run + "series", run + "episodes"}
	b.Run("first-view-cold", func(b *testing.B) {
		for b.Loop() {
			if err := p.runs.close(); err != nil {
				b.Fatal(err)
			}
			ask(b, first...)
		}
	})
	for name, paths := range map[string][]string{
		"first-view-warm": first, "now": {run + "now"}, "series": {run + "series"}, "list": {run + "episodes"},
		"filter-mode": {run + "episodes?mode=off_policy&outcome=success"}, "filter-none": {run + "episodes?finish=cut"},
		"filter-tip":  {run + "episodes?tip=" + tipID("scope", "tip 62")},
		"search-none": {run + "episodes?text=nowhere"}, "episode": {run + "episode?place=700/1/1"}, "tips": {run + "tips"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				ask(b, paths...)
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MB-heap")
			b.ReportMetric(residentMB(), "MB-peak")
		})
	}
}

func tipID(scope, text string) string {
	key := ledger.KeyOfTip(scope, text)
	return fmt.Sprintf("%x", key[:])
}

// residentMB is the largest memory that the process has used; 0: unknown.
func residentMB() (mb float64) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	_, _ = fmt.Sscan(after, &mb) // 0 if the system writes it otherwise
	return mb / 1024
}
