package scienceworld

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// benchScript is repeated during the benchmark. scripts/bench-scienceworld.py has the
// same actions for the Python package.
var benchScript = []string{
	"teleport to kitchen", "look around", "open cupboard", "wait1", "teleport to greenhouse", "wait1",
	"teleport to hallway", "inventory", "teleport to outside", "wait1",
}

// warmRounds is the number of repetitions of the script before the measurement.
const warmRounds = 20

// BenchmarkSteps measures the steps per second of all environments together, without
// loads, and the memory of the JVMs per environment. Before, each environment repeats
// the script warmRounds times, because the JVM compiles for a few hundred steps.
func BenchmarkSteps(b *testing.B) {
	for _, reads := range []Reads{ReadFull, ReadLazy} {
		for _, n := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", reads, n), func(b *testing.B) { benchmarkSteps(b, reads, n) })
		}
	}
}

func benchmarkSteps(b *testing.B, reads Reads, n int) {
	c := live(b)
	c.Tasks, c.Reads, c.Concurrency = []string{"find-living-thing"}, reads, n
	f := openLive(b, c)
	var lent []*instance
	defer func() {
		for _, i := range lent {
			f.pool.release(i)
		}
	}()
	for range n {
		i, err := f.pool.acquire(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		lent = append(lent, i)
		if err := i.load(b.Context(), "find-living-thing", 0, "easy"); err != nil {
			b.Fatal(err)
		}
		repeatScript(b, lent[len(lent)-1:], warmRounds*len(benchScript))
	}
	b.ResetTimer()
	repeatScript(b, lent, (b.N+n-1)/n)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
	b.ReportMetric(residentMiB(b)/float64(n), "MiB/env")
}

// repeatScript performs steps on each instance, on all instances concurrently.
func repeatScript(b *testing.B, instances []*instance, steps int) {
	b.Helper()
	g, ctx := errgroup.WithContext(b.Context())
	for _, inst := range instances {
		g.Go(func() error {
			for k := range steps {
				if _, err := inst.act(ctx, benchScript[k%len(benchScript)]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}

// residentMiB is the memory of the JVMs.
func residentMiB(b *testing.B) float64 {
	b.Helper()
	total := 0.0
	for _, pid := range children(b) {
		file, err := os.Open("/proc/" + pid + "/status")
		if err != nil {
			b.Skip("no /proc here: ", err)
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
				var kib float64
				fmt.Sscan(rest, &kib)
				total += kib / 1024
			}
		}
		file.Close()
	}
	return total
}
