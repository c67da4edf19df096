package vllm

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// BenchmarkSwaps swaps the adapter of a real vLLM 200 times while 64 requests are
// in flight. One operation is the whole sequence.
func BenchmarkSwaps(b *testing.B) {
	r := newReal(b)
	backend := r.launch(b, func(*Config) {})
	samplertest.BenchmarkSwaps(b, backend, r.swaps(b, backend, 200, 64))
}

// BenchmarkLogprobs reports the largest difference between the log-probs of vLLM
// and torch, in float32 and in vLLM's default type.
func BenchmarkLogprobs(b *testing.B) {
	r := newReal(b)
	for _, exact := range []bool{true, false} {
		name := "default"
		if exact {
			name = "exact"
		}
		b.Run(name, func(b *testing.B) {
			backend := r.launch(b, func(c *Config) { c.Launch.Exact = exact })
			for b.Loop() {
				b.ReportMetric(r.difference(b, backend), "max-diff-nats")
			}
		})
	}
}

// BenchmarkClient keeps 256 requests in flight at a fake server in another process,
// whose answers take 200 ms. One operation is one request of 200 prompt tokens.
func BenchmarkClient(b *testing.B) {
	backend := openFake(b, Config{URLs: []string{startFake(b, "200ms")}, MaxInFlight: 256})
	p := publish(b, backend, sampler.Adapter{})
	prompt := make([]int32, 200)
	for i := range prompt {
		prompt[i] = int32(10 + i)
	}
	const inFlight = 256
	send := func(n int) {
		var group errgroup.Group
		for i := range inFlight {
			group.Go(func() error {
				for k := i; k < n; k += inFlight {
					r := sampler.Request{Prompt: prompt, MaxTokens: 32, Temperature: 1, Seed: uint64(k), Session: strconv.Itoa(i)}
					if _, err := backend.Sample(b.Context(), p, r); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	send(inFlight) // opens the connections
	http := backend.Servers()[0].(*server).HTTP
	dials, cpu := http.Dials(), cpuTime(b)
	b.ResetTimer()
	send(b.N)
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/n, "cpu-µs/op")
	b.ReportMetric(float64(http.Dials()-dials), "new-connections")
	b.ReportMetric(float64(dials), "connections")
	b.ReportMetric(residentMiB(b), "rss-MiB")
	b.ReportMetric(n/b.Elapsed().Seconds(), "requests/s")
}

// startFake runs the test binary as a fake server and returns its URL.
func startFake(b *testing.B, delay string) string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fakeEnv+"="+delay)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// cpuTime returns the processor time of this process.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// residentMiB returns the memory of this process, 0 without /proc.
func residentMiB(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	return 0
}
