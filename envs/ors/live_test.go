package ors

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/remotetest"
)

// startTimeout is the deadline for the start of the SDK's server. The first import
// is slow on a cold disk.
const startTimeout = 2 * time.Minute

// live starts testdata/server.py with the SDK's server. EMPO2_ORS_PYTHON must be a
// Python with ors-sdk or openreward. Without it the test is skipped.
func live(t *testing.T) exchange.Server {
	t.Helper()
	python := os.Getenv("EMPO2_ORS_PYTHON")
	if python == "" {
		t.Skip("\n*** NOT RUN: EMPO2_ORS_PYTHON is not set (a Python with ors-sdk or openreward). ***")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(free.Addr().(*net.TCPAddr).Port)
	free.Close()
	start, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	server := exec.Command(python, "testdata/server.py", port)
	log, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if strings.Contains(lines.Text(), "Uvicorn running") {
				ready <- true
			}
		}
		close(ready)
	}()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
		_ = server.Wait() // ends with the kill
	})
	select {
	case up := <-ready:
		if !up {
			t.Fatalf("%s testdata/server.py has ended", python)
		}
	case <-start.Done():
		t.Fatalf("%s testdata/server.py does not serve within %v", python, startTimeout)
	}
	return exchange.Server{URL: "http://127.0.0.1:" + port}
}

func TestTheSDKsServer(t *testing.T) {
	c := Config{Server: live(t), Tool: "answer", Test: Set{Split: "test"}}
	envstest.Run(t, func(t *testing.T) envs.Family { return remotetest.Open(t, Open, c) })
	c.Tool = ""
	envstest.Run(t, func(t *testing.T) envs.Family { return remotetest.Open(t, Open, c) })
	f := remotetest.Open(t, Open, c)
	t.Cleanup(func() { f.Close() })
	e, o := remotetest.Begin(t, f)
	if want := "What is 1 + 0?\n(image image/png, which is not supported and not shown)"; o.State != want {
		t.Errorf("prompt %q, want %q", o.State, want)
	}
	expect := func(action, seen string, reward float64, done bool) {
		t.Helper()
		step, err := e.Step(t.Context(), action)
		text := step.Observation.Feedback + step.Observation.State
		answered := err == nil && strings.Contains(text, seen)
		if !answered || step.Reward != reward || step.Success != done || step.Done() != done {
			t.Errorf("%s: %.200q, reward %v, done %v, error %v", action, text, step.Reward, step.Done(), err)
		}
	}
	expect(`pull lever`, "no tool call", 0, false)
	expect(`{"name": "pull", "input": {}}`, "'pull' is not a valid tool", 0, false)
	expect(`{"name": "answer", "input": {"x": 1}}`, "validation error", 0, false)
	expect(`{"name": "crash"}`, "no such\nthing", 0, false)
	expect(`{"name": "answer", "input": {"answer": "5"}}`, "Wrong: 5", 0, false)
	expect(`{"name": "answer", "input": {"answer": "1"}}`, "Right. "+strings.Repeat("é ", 5000), 1, true)
}
