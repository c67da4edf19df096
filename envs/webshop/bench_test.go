package webshop

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
)

// BenchmarkSteps64Sessions steps 64 sessions in turn through searches, pages and
// purchases. It uses the recorded catalogue of 1,000 products if there is one, and the
// synthetic catalogue if not. It reports steps per second, the heap of the shop with
// its sessions, and the peak memory of the process.
func BenchmarkSteps64Sessions(b *testing.B) {
	f := benchmarkShop(b)
	random := rand.New(rand.NewPCG(1, 2))
	sessions := make([]*session, 64)
	for i := range sessions {
		sessions[i] = restart(b, f, random)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		s := sessions[n%len(sessions)]
		_, done, err := s.act(randomAction(s, random))
		if err != nil {
			b.Fatal(err)
		}
		if s.observe() == "" {
			b.Fatal("an empty page")
		}
		if done {
			sessions[n%len(sessions)] = restart(b, f, random)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MiB")
	b.ReportMetric(peakMiB(), "peak-RSS-MiB")
	b.ReportMetric(float64(len(f.shop.catalogue.heads)), "products")
	runtime.KeepAlive(f)
}

// peakMiB is the peak memory of the process, or 0 without /proc.
func peakMiB() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib float64
	_, _ = fmt.Sscan(rest, &kib)
	return kib / 1024
}

// BenchmarkOpen reads the catalogue and builds the index.
func BenchmarkOpen(b *testing.B) {
	products := 0
	for b.Loop() {
		products += len(benchmarkShop(b).shop.catalogue.heads)
	}
	b.ReportMetric(float64(products)/b.Elapsed().Seconds(), "products/s")
}

func benchmarkShop(b *testing.B) *Family {
	b.Helper()
	c := shopConfig()
	if real := recordingsFolder() + "/real"; exists(real) {
		c = Config{DataDir: real, Items: packed(real, "items.json"), Attributes: packed(real, "items_ins_v2.json"),
			OwnData: true, Seed: 42}
	}
	return openFamily(b, c)
}

func restart(b *testing.B, f *Family, random *rand.Rand) *session {
	b.Helper()
	s, err := f.session(random.IntN(len(f.goals.goals)), "0", 1)
	if err != nil {
		b.Fatal(err)
	}
	s.open()
	return s
}

// randomAction searches for the goal and clicks at random until it buys.
func randomAction(s *session, random *rand.Rand) string {
	names := s.page.names()
	if s.page.searchBar || len(names) == 0 {
		words := strings.Fields(s.goal.instruction)
		return "search[" + strings.Join(words[2:min(len(words), 8)], " ") + "]"
	}
	return "click[" + names[random.IntN(len(names))] + "]"
}
