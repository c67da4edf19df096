package scienceworld

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// benchScript is walked through again and again; scripts/bench-scienceworld.py
// times the same actions with the Python package.
var benchScript = []string{
	"teleport to kitchen", "look around", "open cupboard", "wait1", "teleport to greenhouse", "wait1",
	"teleport to hallway", "inventory", "teleport to outside", "wait1",
}

// warmRounds is how often an environment walks the script before it is timed.
const warmRounds = 20

// BenchmarkSteps measures steps per second over all environments, loads left
// out, and the memory of the JVMs per environment. It warms each environment
// with warmRounds of the script first: the JVM compiles for a few hundred steps.
func BenchmarkSteps(b *testing.B) {
	for _, reads := range []Reads{ReadFull, ReadLazy} {
		for _, n := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", reads, n), func(b *testing.B) { benchmarkSteps(b, reads, n) })
		}
	}
}

func benchmarkSteps(b *testing.B, reads Reads, n int) {
	c := live(b)
	c.Tasks, c.Reads, c.Instances = []string{"find-living-thing"}, reads, n
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
		walk(b, lent[len(lent)-1:], warmRounds*len(benchScript))
	}
	b.ResetTimer()
	walk(b, lent, (b.N+n-1)/n)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
	b.ReportMetric(residentMiB(b)/float64(n), "MiB/env")
}

// walk takes the given number of steps on each instance, all at once.
func walk(b *testing.B, instances []*instance, steps int) {
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

// residentMiB is the memory that our JVMs hold now.
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
