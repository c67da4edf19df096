package llamacpp

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
)

// BenchmarkSample runs episodes of eight turns, each with about 25 new prompt tokens
// and 8 sampled ones. There is one session per slot. One operation is one request.
func BenchmarkSample(b *testing.B) {
	r := newReal(b)
	for _, sticky := range []bool{true, false} {
		b.Run("sticky="+strconv.FormatBool(sticky), func(b *testing.B) {
			cfg := r.config()
			cfg.Slots = 16
			backend := r.open(b, cfg)
			policy := r.publish(b, backend, sampler.Adapter{})
			text := tokens(b, backend, "The corridor has a lever, a door and a sign. ")
			before, cpu := backend.Stats(), cpuMillis(b, pid(b, backend.base))
			b.ResetTimer()
			var group errgroup.Group
			for s := range cfg.Slots {
				group.Go(func() error { return episodes(b, backend, policy, text, s, sticky) })
			}
			if err := group.Wait(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			after, n := backend.Stats(), float64(b.N)
			b.ReportMetric((cpuMillis(b, pid(b, backend.base))-cpu)/n, "server-cpu-ms/op")
			b.ReportMetric(float64(after.PromptProcessed-before.PromptProcessed)/n, "prompt-tokens/op")
			b.ReportMetric(float64(after.PromptCached-before.PromptCached)/n, "cached-tokens/op")
			b.ReportMetric(float64(after.Sampled-before.Sampled)/n, "sampled-tokens/op")
			b.ReportMetric(n/b.Elapsed().Seconds(), "requests/s")
		})
	}
}

// episodes sends every 16th request of the benchmark.
func episodes(b *testing.B, backend *Backend, p sampler.Policy, text []int32, s int, sticky bool) error {
	var prompt []int32
	for k := s; k < b.N; k += 16 {
		if turn := k / 16 % 8; turn == 0 {
			prompt = []int32{int32(10 + k%200)}
		}
		prompt = append(prompt, text...)
		request := sampler.Request{Prompt: prompt, MaxTokens: 8, Temperature: 1, Seed: uint64(k)}
		if sticky {
			request.Session = strconv.Itoa(s)
		}
		c, err := backend.Sample(b.Context(), p, request)
		if err != nil {
			return err
		}
		prompt = append(prompt, c.IDs...)
	}
	return nil
}

// cpuMillis returns the processor time of a process, 0 without /proc.
func cpuMillis(b *testing.B, pid int) float64 {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	var ticks float64
	for _, field := range fields[11:13] { // user and system time
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return ticks * 10 // ms, at 100 ticks a second
}
