package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator"
)

// The soak programme (scripts/soak): one long run of empo2 with a scripted policy.
var (
	soakSteps   = flag.Int("soak.steps", 0, "steps of the soak run; 0: none")
	soakKeep    = flag.Int("soak.keep", 0, "run.keep_episodes of the soak run")
	soakMinutes = flag.Float64("soak.minutes", 20, "limit of the soak run")
)

// usage is what a running empo2 uses after a step.
type usage struct {
	step        int64
	episodes    int
	rss         int64 // bytes
	heap        int64 // bytes, after a garbage collection
	goroutines  int
	descriptors int
	database    int64   // bytes of run.db and its log
	seconds     float64 // per step, mean since the mark before, at most of soakWindow steps
}

// soakWindow is the largest number of steps whose times are averaged.
const soakWindow = 100

// TestSoak prints what empo2 uses after 10, 100, 1,000 and 10,000 steps. The
// figures depend on the machine; goroutines and descriptors must not grow.
func TestSoak(t *testing.T) {
	if *soakSteps == 0 {
		t.Skip("NOT RUN: scripts/soak runs it")
	}
	inCrashFolder(t)
	withScriptedParts(t)
	seen := soak(t, *soakSteps, time.Duration(*soakMinutes*float64(time.Minute)))
	fmt.Println("   step  episodes  RSS MB  heap MB  goroutines  descriptors  run.db MB  KB/episode  ms/step")
	for i, u := range seen {
		growth := float64(u.database) / float64(u.episodes)
		if i > 0 {
			growth = float64(u.database-seen[i-1].database) / float64(max(1, u.episodes-seen[i-1].episodes))
		}
		fmt.Printf("%7d %9d %7.1f %8.1f %11d %12d %10.1f %11.2f %8.1f\n", u.step, u.episodes, float64(u.rss)/1e6,
			float64(u.heap)/1e6, u.goroutines, u.descriptors, float64(u.database)/1e6, growth/1e3, u.seconds*1e3)
	}
	if len(seen) < 2 {
		return
	}
	first, last := seen[0], seen[len(seen)-1]
	if last.goroutines > first.goroutines+10 || last.descriptors > first.descriptors+10 {
		t.Errorf("%d goroutines and %d descriptors became %d and %d", first.goroutines, first.descriptors,
			last.goroutines, last.descriptors)
	}
}

// soak runs empo2 until it has made the steps or the time is over.
func soak(t *testing.T, steps int, limit time.Duration) (seen []usage) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "empo2", "run", "--json", "--profile", "demo", "-c", "crash.toml",
		"--set", "run.name=soak", "--set", fmt.Sprintf("run.steps=%d", steps), "--set", "algorithm.group_size=2",
		"--set", fmt.Sprintf("run.keep_episodes=%d", *soakKeep),
		"--set", "eval.every=1000000", "--set", "eval.final_episodes=4")
	answers, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	cmd.ExtraFiles, cmd.Env, cmd.Stderr = []*os.File{theirs}, append(os.Environ(), tellStats+"=1"), os.Stderr
	questions, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	ask := &asker{pid: cmd.Process.Pid, questions: questions, answers: bufio.NewReader(answers)}
	begun := time.Now()
	var times []float64
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		var e struct {
			Event string
			Data  orchestrator.StepMetrics
		}
		if json.Unmarshal([]byte(line), &e) != nil || e.Event != "step" {
			continue
		}
		times = append(times, e.Data.Seconds.Total)
		over := time.Since(begun) > limit
		if over || int(e.Data.Step) == steps || slices.Contains([]int64{10, 100, 1000, 10000}, e.Data.Step) {
			u, err := ask.usage()
			if err != nil {
				t.Fatalf("after step %d: %v", e.Data.Step, err)
			}
			u.step, u.episodes, u.seconds = e.Data.Step, e.Data.Episodes, mean(times[max(0, len(times)-soakWindow):])
			seen, times = append(seen, u), nil
		}
		if over {
			_ = cmd.Process.Signal(os.Interrupt)
			_, _ = io.Copy(io.Discard, lines) // until it ends
			break
		}
	}
	if err := cmd.Wait(); err != nil && time.Since(begun) <= limit {
		t.Errorf("the run: %v", err)
	}
	return seen
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(1, len(values)))
}

// An asker measures a running empo2.
type asker struct {
	pid       int
	questions io.Writer
	answers   *bufio.Reader
}

func (a *asker) usage() (u usage, err error) {
	if _, err := fmt.Fprintln(a.questions); err != nil {
		return u, err
	}
	line, err := a.answers.ReadString('\n')
	if err != nil {
		return u, err
	}
	if _, err := fmt.Sscan(line, &u.heap, &u.goroutines); err != nil {
		return u, err
	}
	proc := fmt.Sprintf("/proc/%d/", a.pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &u.rss); err == nil {
			u.rss <<= 10
		}
	}
	descriptors, err := os.ReadDir(proc + "fd")
	u.descriptors = len(descriptors)
	for _, name := range []string{"run.db", "run.db-wal"} {
		if info, err := os.Stat(filepath.Join("runs", "soak", name)); err == nil {
			u.database += info.Size()
		}
	}
	return u, err
}
