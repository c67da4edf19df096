package orchestrator

import (
	"container/heap"
	"context"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"testing"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/embed"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// BenchmarkRollouts runs steps of the loop in this process: the real driver, scheduler, memory and ledger, an instant
// policy and trainer. Every episode is committed when it ends. A call of the policy sleeps U(0, 0.1 s), except in
// "no-sleep". One operation is an episode. ideal-% is the time that the sleeps alone take, with as many episodes at the
// same time, as a share of the time that sampling took.
func BenchmarkRollouts(b *testing.B) {
	for _, c := range []struct {
		name       string
		algorithm  string
		concurrent int
		sleep      time.Duration
	}{
		{"grpo/no-sleep", "grpo", 32, 0},
		{"empo2/no-sleep", "empo2", 32, 0},
		{"grpo/concurrent=1008", "grpo", 1008, 100 * time.Millisecond},
		{"empo2/concurrent=1008", "empo2", 1008, 100 * time.Millisecond},
		{"empo2/concurrent=10000", "empo2", 10000, 100 * time.Millisecond},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newBenchRun(b, c.algorithm, c.concurrent, c.sleep)
			family, reply, err := corridors(w.config)
			if err != nil {
				b.Fatal(err)
			}
			w.run(b, family, reply)
		})
	}
}

// BenchmarkStore is the workload of agent-lightning's store benchmark (see [spans]) with the same parts.
func BenchmarkStore(b *testing.B) {
	for _, c := range []struct {
		name       string
		concurrent int
		sleep      time.Duration
	}{
		{"no-sleep", 8, time.Millisecond},
		{"concurrent=32", 32, 500 * time.Millisecond},
		{"concurrent=1000", 1000, 500 * time.Millisecond},
		{"concurrent=10000", 10000, 500 * time.Millisecond},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newBenchRun(b, "grpo", c.concurrent, c.sleep)
			w.run(b, newSpans(), func(sampler.Request) string { return "next" })
		})
	}
}

// benchRun is a run whose cost is measured.
type benchRun struct {
	config config.Config
	dir    string
	sleep  time.Duration
}

// benchEpisodes is the largest number of episodes in a step, unless more run at the same time.
const benchEpisodes = 1024

func newBenchRun(b *testing.B, algorithm string, concurrent int, sleep time.Duration) *benchRun {
	c := demo()
	c.Algorithm.Name, c.Rollout.Concurrency, c.Env.Vault.Doors = algorithm, concurrent, 5
	c.Eval.Every, c.Eval.FinalEpisodes = 0, 1
	c.Rollout.MaxTokens, c.Reflection.MaxTokens = 32, 200
	if algorithm == "grpo" {
		c.Algorithm.Baseline = "group"
	}
	return &benchRun{config: c, dir: b.TempDir(), sleep: sleep}
}

// run runs steps until they have b.N episodes.
func (w *benchRun) run(b *testing.B, family envs.Family, reply func(sampler.Request) string) {
	if b.N == 1 { // the benchmark's own try before -benchtime Nx
		return
	}
	c := &w.config
	size := c.Algorithm.GroupSize
	inStep := max(1, min(b.N, benchEpisodes)/size) * size
	if c.Rollout.Concurrency > inStep {
		inStep = c.Rollout.Concurrency / c.Algorithm.GroupSize * c.Algorithm.GroupSize
	}
	c.Algorithm.Groups = inStep / c.Algorithm.GroupSize
	c.Run.Steps = max(1, b.N/inStep)
	backend := newQuick(reply, w.sleep)
	l, observed := w.open(b, family, backend)
	defer l.Ledger.Close()
	cpu, heap := cpuTime(b), watchHeap()
	b.ReportAllocs()
	b.ResetTimer()
	if _, err := l.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	episodes, seconds := 0.0, 0.0
	for _, m := range observed.steps {
		episodes, seconds = float64(m.Episodes), seconds+m.Seconds.Sample
	}
	b.ReportMetric(episodes, "episodes")
	b.ReportMetric(episodes/seconds, "rollouts/s")
	b.ReportMetric((cpuTime(b)-cpu).Seconds()*1e3/episodes, "cpu-ms/rollout")
	if w.sleep > 0 {
		b.ReportMetric(100*backend.ideal(c.Rollout.Concurrency, c.Run.Steps, c.Algorithm.Groups, c.Algorithm.GroupSize).
			Seconds()/seconds, "ideal-%")
	}
	b.ReportMetric(float64(heap())/1e6, "peak-heap-MB")
	if info, err := os.Stat(filepath.Join(w.dir, "run.db")); err == nil {
		b.ReportMetric(float64(info.Size())/1e3/episodes, "db-kB/rollout")
	}
}

// observedSteps keeps the metrics of steps.
type observedSteps struct {
	world
}

func (w *benchRun) open(b *testing.B, family envs.Family, backend *quick) (*Loop, *observedSteps) {
	ctx := b.Context()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	led, err := ledger.Open(ctx, w.dir)
	must(err)
	tokenizer := chat.CachedTokenizer(coarse{backend.tokenizer}, 4096)
	template, err := chat.NewTemplate(ctx, chat.TemplateChatML, tokenizer, backend.tokenizer, nil)
	must(err)
	o := &observedSteps{}
	l := &Loop{
		Config: w.config, Family: family, Ledger: led, Backend: backend, Observer: o, RestartPause: 1,
		Driver: &rollout.Driver{Backend: backend, Family: family, ChatTemplate: template,
			PromptTemplate: prompt.Default(), CleanTip: memory.CleanTip},
		Trainer: &quickTrainer{fakeTrainer{root: w.dir}},
	}
	if w.config.Algorithm.Name != "grpo" {
		m := memory.DefaultConfig(embed.NGram{})
		m.K = w.config.Memory.K
		must(memory.Migrate(ctx, led.DB()))
		bank, err := memory.OpenBank(ctx, led.DB(), m)
		must(err)
		l.Memory = bank
	}
	return l, o
}

// coarse is a tokenizer with a token for every four bytes, as those of real models have.
type coarse struct{ *samplertest.Tokenizer }

// Tokenize implements [chat.Tokenizer].
func (c coarse) Tokenize(_ context.Context, text string) ([]int32, error) {
	ids := make([]int32, 0, len(text)/4+1)
	for ; len(text) > 0; text = text[min(4, len(text)):] {
		h := int32(0)
		for _, x := range []byte(text[:min(4, len(text))]) {
			h = 31*h + int32(x)
		}
		ids = append(ids, int32(samplertest.FirstByte)+h%30000)
	}
	return ids, nil
}

// ideal returns how long the sampling of steps takes if only the sleeps take time: each episode begins when a place is
// free, and its tip is written beside the others.
func (q *quick) ideal(places, steps, groups, size int) (sum time.Duration) {
	for step := 1; step <= steps; step++ {
		busy := make(durations, places)
		var last time.Duration
		for g := range groups {
			for e := range size {
				var took time.Duration
				for _, d := range q.slept["s"+strconv.Itoa(step)+"-g"+strconv.Itoa(g)+"-e"+strconv.Itoa(e)] {
					took += d
				}
				busy[0] += took
				last = max(last, busy[0])
				heap.Fix(&busy, 0)
			}
		}
		sum += last
	}
	return sum
}

// durations is a heap.
type durations []time.Duration

func (d durations) Len() int           { return len(d) }
func (d durations) Less(i, j int) bool { return d[i] < d[j] }
func (d durations) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *durations) Push(any)          {}
func (d *durations) Pop() any          { return nil }

// watchHeap returns a function that stops watching and returns the largest heap, in bytes.
func watchHeap() func() uint64 {
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		var most uint64
		for {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(stop); return <-peak }
}
