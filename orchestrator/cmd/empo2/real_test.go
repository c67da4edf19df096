package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/forecast"
)

// realScratch changes to an empty folder with a cache of its own. It skips the test
// if there is no Python with torch.
func realScratch(t *testing.T) {
	t.Helper()
	if os.Getenv("EMPO2_PYTHON") == "" {
		t.Skip("NOT RUN: EMPO2_PYTHON names no Python with the trainer's packages; scripts/test sets it")
	}
	dir := t.TempDir()
	t.Setenv("EMPO2_CACHE", filepath.Join(dir, "cache"))
	t.Chdir(dir)
}

// A run of the embedded policy with torch, llama-server and SQLite. The test
// kills the trainer, then a server, then empo2 itself. The second command
// continues. No step is missing or repeated. No secret of the environment is in the
// run's files or on the terminal, and other users can read the adapters alone.
func TestRealRunSurvivesKills(t *testing.T) {
	realScratch(t)
	const secret = "sk-of-the-environment-73"
	for _, name := range []string{"EMPO2_SERVER_KEY", "EMPO2_ENV_KEY", "EMPO2_EMBEDDER_KEY", "EMPO2_MEMORY_KEY",
		"EMPO2_TRAINER_KEY", "HF_TOKEN"} {
		t.Setenv(name, secret)
	}
	defer syscall.Umask(syscall.Umask(0)) // a folder is private because empo2 says so
	args := []string{"run", "--profile", "demo", "--json", "--set", "run.steps=6", "--set", "algorithm.group_size=6",
		"--set", "eval.every=3", "--set", "eval.episodes=8", "--set", "eval.final_episodes=16"}

	killed := runUntilKilled(t, args)
	if killed.steps < 4 {
		t.Fatalf("killed after %d steps:\n%s", killed.steps, killed.stderr.String())
	}
	eventually(t, "children of the killed empo2 are gone", func() bool { return !alive(killed.children) })
	checkPrivate(t, "runs", secret) // with the files that only a running run has

	ctx := t.Context()
	var stderr bytes.Buffer
	second := exec.CommandContext(ctx, "empo2", args...)
	second.Stderr = &stderr
	out, err := second.Output()
	if err != nil {
		t.Fatalf("the second command: %v\n%s\n%s", err, out, stderr.String())
	}
	checkSummary(t, out)
	checkPrivate(t, "runs", secret)
	if text := killed.stderr.String() + string(out) + stderr.String(); strings.Contains(text, secret) {
		t.Errorf("the secret is on the terminal:\n%s", text)
	}

	summary, err := readSummary(context.Background(), filepath.Join("runs", "vault"))
	if err != nil {
		t.Fatal(err)
	}
	var restarts int
	for i, m := range summary.History {
		restarts += m.Restarts
		if m.Step != int64(i+1) || m.Failed != 0 {
			t.Errorf("step %d: %+v", i+1, m)
		}
		if m.Mismatch.Max > 1e-4 || m.Canary > 1e-4 {
			t.Errorf("step %d: log-probs of server and trainer differ by %g on rows, %g on the canary",
				m.Step, m.Mismatch.Max, m.Canary)
		}
	}
	if restarts == 0 {
		t.Error("the killed trainer was not noticed")
	}
}

// killedRun has the output of a run that was killed.
type killedRun struct {
	steps    int
	children []int
	stderr   bytes.Buffer
}

// runUntilKilled kills the trainer after the first step, a llama-server after
// the second and empo2 itself after the fourth.
func runUntilKilled(t *testing.T, args []string) *killedRun {
	t.Helper()
	r := &killedRun{}
	ctx := t.Context()
	cmd := exec.CommandContext(ctx, "empo2", args...)
	cmd.Stderr = &r.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if !strings.Contains(lines.Text(), `"event":"step"`) {
			continue
		}
		r.steps++
		switch r.steps {
		case 1:
			kill(t, child(t, cmd.Process.Pid, "empo2_trainer"))
		case 2:
			kill(t, child(t, cmd.Process.Pid, "llama-server"))
		case 4:
			r.children = children(cmd.Process.Pid)
			kill(t, cmd.Process.Pid)
		}
	}
	_ = cmd.Wait() // killed
	return r
}

// checkPrivate checks the permissions of all files of the runs in a folder, and that
// none has the secret.
func checkPrivate(t *testing.T, dir, secret string) {
	t.Helper()
	seen := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		seen[entry.Name()] = true
		mode := info.Mode().Perm()
		switch {
		case strings.Contains(path, "/checkpoints/"): // in a private folder
		case entry.Name() == "checkpoints" && mode != 0o700, strings.Contains(path, "/adapters/") && mode&0o044 != 0o044,
			!entry.IsDir() && !strings.Contains(path, "/adapters/") && mode != 0o600:
			t.Errorf("%s: %v", path, mode)
		}
		if entry.IsDir() {
			return nil
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(secret)) {
			t.Errorf("%s has the secret", path)
		}
		return err
	})
	if err != nil || !seen["run.db"] || !seen["status.json"] || !seen["checkpoints"] {
		t.Errorf("files of the run: %v, %v", seen, err)
	}
}

func checkSummary(t *testing.T, out []byte) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var last struct {
		Event string
		Data  orchestrator.Summary
	}
	if end := lines[len(lines)-1]; len(lines) < 2 || !strings.Contains(end, `"event":"end"`) {
		t.Fatalf("the last line is %s", end)
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-2]), &last); err != nil {
		t.Fatalf("%v in %s", err, lines[len(lines)-2])
	}
	if last.Event != "summary" || last.Data.Steps != 6 || last.Data.Episodes != 6*4*6 {
		t.Errorf("last line %+v", last)
	}
	for _, line := range lines {
		if strings.Contains(line, `"event":"step"`) && strings.Contains(line, `"step":1,`) {
			t.Error("the first step was trained again")
		}
	}
}

// children lists the processes whose parent is pid.
func children(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var out []int
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			out = append(out, n)
		}
	}
	return out
}

// child returns the newest child of pid whose command line contains text.
func child(t *testing.T, pid int, text string) int {
	t.Helper()
	found := 0
	for _, c := range children(pid) {
		line, _ := os.ReadFile("/proc/" + strconv.Itoa(c) + "/cmdline")
		if strings.Contains(string(line), text) {
			found = max(found, c)
		}
	}
	if found == 0 {
		t.Fatalf("no child of empo2 is a %s", text)
	}
	return found
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("kill %d: %v", pid, err)
	}
}

func alive(pids []int) bool {
	for _, pid := range pids {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err == nil && !strings.Contains(string(text), ") Z ") {
			return true
		}
	}
	return false
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Errorf("not true when the test ended: %s", what)
			return
		}
	}
}

// A plan of the demonstration with the real trainer and llama-server: what was
// measured is there, and memory is predicted as the parts reported it.
func TestRealPlan(t *testing.T) {
	realScratch(t)
	cmd := exec.CommandContext(t.Context(), "empo2", "plan", "--profile", "demo", "--json", "--seconds", "60")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, stderr.String())
	}
	var line struct{ Data forecast.Forecast }
	if err := json.Unmarshal(out, &line); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	f := line.Data
	m := f.Measured
	if m == nil || m.Episodes != 16 || m.TurnsPerSec <= 0 || m.TrainTokensPerSec <= 0 || m.ScoreTokensPerSec <= 0 ||
		m.PublishSeconds <= 0 || m.OptimSeconds <= 0 || m.AdapterBytes == 0 || m.CheckpointBytes == 0 {
		t.Fatalf("measured %+v", m)
	}
	if f.Time.Step <= 0 || f.Episodes != 64 || f.StepTokens != 64*m.EpisodeTokens || len(f.Problems) != 0 {
		t.Errorf("%+v", f)
	}
	if f.Trainer.Total() < m.TrainerPeak || m.ServerMemory > 0 && f.Server.Total() < m.ServerMemory*9/10 {
		t.Errorf("trainer %d and server %d bytes, measured %d and %d", f.Trainer.Total(), f.Server.Total(),
			m.TrainerPeak, m.ServerMemory)
	}
	if _, err := os.Stat(filepath.Join("runs", "vault", planFile)); err != nil {
		t.Error(err)
	}
}
