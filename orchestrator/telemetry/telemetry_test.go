package telemetry

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/rollout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample is a step with known values.
func sample(n int64) orchestrator.StepMetrics {
	return orchestrator.StepMetrics{
		Step: n, Version: int(n), Episodes: 8 * int(n), Failed: 2, Groups: 4, NoGradient: 1, Trained: 100, KLBase: 0.25,
		Free:    orchestrator.EpisodeStats{N: 2, Return: 10, Success: 0.5, Turns: 3},
		Tips:    orchestrator.EpisodeStats{N: 4, Return: 40, Success: 0.75, Turns: 6},
		Stops:   map[rollout.StopReason]int{rollout.StopContextFull: 1},
		Replies: orchestrator.Replies{N: 20, Cut: 5, Empty: 2},
		Seconds: orchestrator.Seconds{Total: 3, Sample: 2, Train: 0.5, Publish: 0.25},
		Phases: []orchestrator.PhaseRecord{{Name: "sampling", Seconds: 2}, {Name: "warm start", Seconds: 1},
			{Name: "sampling", Seconds: 0.5}},
		Mismatch: orchestrator.Mismatch{Tokens: 0, Mean: 9},
	}
}

var evaluated = orchestrator.Evaluation{Kind: "eval", Step: 2, Success: 0.5, Score: 50, Episodes: 16}

// run is a run with two steps and an evaluation.
func run(scheme string) Run {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return Run{Name: "grpo/1", Config: "[run]\nname = \"grpo/1\"\n[loss]\nkl = 0.5\n", Points: []Point{
		{1, at, ofStep(sample(1), scheme)}, {2, at.Add(time.Second), ofStep(sample(2), scheme)},
		{2, at.Add(time.Second), ofEvaluation(evaluated)},
	}}
}

func TestValuesOfAStep(t *testing.T) {
	values := Point{Values: ofStep(sample(2), Ours)}.values()
	f := func(name string, want float64) {
		t.Helper()
		if got, ok := values[name]; !ok || math.Abs(got-want) > 1e-12 {
			t.Errorf("%s: %v %t, want %v", name, got, ok, want)
		}
	}
	f("return", 30) // (2·10 + 4·40)/6
	f("return/without_tips", 10)
	f("success/with_tips", 0.75)
	f("turns", 5)
	f("episodes", 16)
	f("episodes/failed", 0.25) // 2 of 8
	f("episodes/context_full", 0.125)
	f("replies/cut", 0.25)
	f("replies/empty", 0.1)
	f("groups/no_gradient", 0.25)
	f("kl", 0.25)
	f("seconds/step", 3)
	f("phases/sampling", 2.5)
	f("phases/warm_start", 1)
	ahead := sample(2)
	ahead.Seconds, ahead.Cancelled = orchestrator.Seconds{Sample: 9, Train: 4, Total: 8}, 8
	ahead.Overlap = orchestrator.Overlap{Sampling: new(6.0),
		Staleness: orchestrator.Staleness{Mean: 0.75, Max: 1, Dropped: 2}}
	before := values
	values = Point{Values: ofStep(ahead, Ours)}.values()
	f("staleness/mean", 0.75)
	f("staleness/max", 1)
	f("groups/stale", 2)
	f("idle/server", 0.25)
	f("idle/trainer", 0.5)
	f("episodes/cancelled", 0.5) // of 16
	values = before
	for _, absent := range []string{"mismatch/mean", "replies/cut_tips", "server/memory_bytes", "trainer/mfu",
		"staleness/mean", "groups/stale"} {
		if _, ok := values[absent]; ok {
			t.Errorf("%s has a value", absent)
		}
	}
	for _, v := range ofStep(orchestrator.StepMetrics{Step: 1}, Ours) {
		if math.IsNaN(v.Number) || v.Name == "kl" || v.Name == "return" {
			t.Errorf("a step without episodes has %+v", v)
		}
	}
}

// Each scheme has one name for each metric, and no two metrics have one.
func TestNames(t *testing.T) {
	for _, scheme := range Schemes {
		seen := map[string]bool{}
		for _, m := range Metrics {
			name := m.In(scheme)
			if seen[name] {
				t.Errorf("%s: two metrics are called %s", scheme, name)
			}
			seen[name] = true
		}
	}
	f := func(ours, scheme, want string) {
		t.Helper()
		i := slices.IndexFunc(Metrics, func(m Metric) bool { return m.Name == ours })
		if got := Metrics[i].In(scheme); got != want {
			t.Errorf("%s: %s, want %s", ours, got, want)
		}
	}
	f("return", TRL, "train/reward")
	f("return", Verl, "critic/rewards/mean")
	f("return", PrimeRL, "reward/all/mean")
	f("return", Ours, "return")
	f("mask", TRL, "train/mask")
	f("mask", Verl, "empo2/mask")
}

// The table in the README is the one of the program.
func TestTableInReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), Table()) {
		t.Errorf("README.md has another table of metrics. It must be:\n%s", Table())
	}
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	other := run(Ours)
	other.Name, other.Points = "second", []Point{{0, time.Time{}, []Value{{"eval/success", 0.125}}}}
	if err := CSV(&b, []Run{run(Ours), other}); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(rows) != 4 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	at := func(row int, column string) string { return rows[row][slices.Index(rows[0], column)] }
	if at(1, "run") != "grpo/1" || at(2, "step") != "2" || at(2, "timestamp") != "2026-01-02T03:04:06Z" ||
		at(2, "return") != "30" || at(2, "eval/success") != "0.5" || at(1, "eval/success") != "" ||
		at(3, "run") != "second" || at(3, "return") != "" || at(3, "eval/success") != "0.125" || at(3, "timestamp") != "" {
		t.Errorf("%q", rows)
	}
}

func TestJSONLines(t *testing.T) {
	var b bytes.Buffer
	if err := JSONLines(&b, []Run{run(TRL)}); err != nil {
		t.Fatal(err)
	}
	var line struct {
		Run     string
		Step    int64
		Metrics map[string]float64
	}
	d := json.NewDecoder(&b)
	for d.More() {
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
	}
	if line.Run != "grpo/1" || line.Step != 2 || line.Metrics["train/reward"] != 30 || line.Metrics["eval/score"] != 50 {
		t.Errorf("%+v", line)
	}
}

// A file that is begun again has everything, and the earlier one is removed. Other files
// stay. A run goes on if its file cannot be written.
func TestTensorBoardBeginsAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a [b]", "tb")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "events.out.tfevents.1.other")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var sizes []int64
	for range 2 {
		board, err := OpenTensorBoard(dir, TRL, run(TRL), zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		board.Step(sample(3))
		board.Evaluation(evaluated)
		if err := board.Close(); err != nil {
			t.Fatal(err)
		}
		board.Step(sample(4)) // too late
		files, err := filepath.Glob(filepath.Join(quoteGlob(dir), "*.empo2"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%q, %v", files, err)
		}
		info, err := os.Stat(files[0])
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, info.Size())
	}
	if !fileExists(foreign) || sizes[0] != sizes[1] {
		t.Errorf("sizes %v", sizes)
	}
}

func TestPrometheus(t *testing.T) {
	p, err := ServePrometheus("127.0.0.1:0", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	o := p.Run(`we"ird`)
	text := scrape(t, p)
	if !strings.Contains(text, "go_goroutines") || strings.Contains(text, "empo2_") {
		t.Errorf("before the first step:\n%s", text)
	}
	o.Phase(watchdog.Phase{Name: "sampling", Step: 3, Done: 4, Total: 8, Unit: "episodes", Since: time.Unix(1000, 0)})
	o.Step(sample(2))
	o.Evaluation(evaluated)
	text = scrape(t, p)
	for _, want := range []string{
		`empo2_step{run="we\"ird"} 2`, `empo2_replies_cut{run="we\"ird"} 0.25`, `empo2_kl{run="we\"ird"} 0.25`,
		`empo2_episodes_context_full{run="we\"ird"} 0.125`, `empo2_phase{phase="sampling",run="we\"ird"} 1`,
		`empo2_phase_done{phase="sampling",run="we\"ird",unit="episodes"} 4`,
		`empo2_phase_start_seconds{phase="sampling",run="we\"ird"} 1000`,
		`empo2_phase_seconds{phase="sampling",run="we\"ird"} 2.5`,
		`empo2_evaluation_success{run="we\"ird",split="eval"} 0.5`,
		"# HELP empo2_replies_cut share of replies cut at rollout.max_tokens",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := ServePrometheus("256.0.0.1:1", zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("an address that does not exist: %v", err)
	}
}

func scrape(t *testing.T, p *Prometheus) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	answer, err := client.Get(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", answer.Status, err)
	}
	return string(text)
}
