package launch

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// parentEnv makes the test binary a program that launches a server and waits
// to be killed.
const parentEnv = "EMPO2_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentEnv); dir != "" {
		s, err := Start(context.Background(), serving(dir, `sleep 1000 & echo $! >child; touch ready; wait`))
		fmt.Println(s != nil, err)
		select {}
	}
	goleak.VerifyTestMain(m)
}

// serving is a server that is a shell script; it is ready when the file ready
// is there.
func serving(dir, script string) Config {
	return Config{
		Name: "script", Command: []string{"/bin/sh", "-c", script}, Dir: dir, Poll: time.Millisecond, StartTimeout: time.Minute,
		Ready: func(context.Context) error { _, err := os.Stat(filepath.Join(dir, "ready")); return err },
	}
}

func start(t *testing.T, c Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// until polls what another process does; the test's own time limit ends it.
func until(f func() bool) {
	for !f() {
		time.Sleep(time.Millisecond)
	}
}

func child(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestCloseEndsTheServerAndItsChildren(t *testing.T) {
	dir := t.TempDir()
	s := start(t, serving(dir, `sleep 1000 & echo $! >child; touch ready; wait`))
	if s.Err() != nil || s.PID() == 0 {
		t.Error(s.Err(), s.PID())
	}
	pid := s.PID()
	s.Close()
	if !gone(pid) {
		t.Error("it still runs")
	}
	until(func() bool { return gone(child(t, dir)) })
}

// Servers write their arguments down.
func TestTheSecretIsNotLogged(t *testing.T) {
	var log bytes.Buffer
	c := serving(t.TempDir(), `echo my key is $KEY; exit 3`)
	c.Command, c.Env = append(c.Command, "--api-key", "s3cret"), []string{"KEY=s3cret"}
	c.Secret, c.Log = "s3cret", zerolog.New(zerolog.SyncWriter(&log))
	_, err := Start(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "my key is …") || !strings.Contains(log.String(), "--api-key …") {
		t.Errorf("%v\n%s", err, &log)
	}
	if strings.Contains(fmt.Sprint(err, &log), c.Secret) {
		t.Errorf("%v\n%s", err, &log)
	}
}

func TestAServerThatIgnoresSIGTERMIsKilled(t *testing.T) {
	c := serving(t.TempDir(), `trap '' TERM; touch ready; while :; do sleep 1000; done`)
	c.Grace = time.Millisecond
	s := start(t, c)
	pid := s.PID()
	s.Close()
	if !gone(pid) {
		t.Error("it still runs")
	}
}

func TestTheServerEndsWithUs(t *testing.T) {
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+dir)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	until(func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil })
	pid := child(t, dir)
	parent.Process.Kill()
	parent.Wait()
	until(func() bool { return gone(pid) })
}

func TestAnEndIsAFailureWhateverItsStatus(t *testing.T) {
	dir := t.TempDir()
	s := start(t, serving(dir, `echo x >>starts; touch ready; [ $(wc -l <starts) -gt 1 ] || exit 0; while :; do sleep 1000; done`))
	until(func() bool { text, _ := os.ReadFile(filepath.Join(dir, "starts")); return len(text) == 4 })
	until(func() bool { return s.Err() == nil && s.PID() != 0 })
}

func TestAServerIsGivenUp(t *testing.T) {
	c := serving(t.TempDir(), `touch ready; read x <go; echo out of luck; exit 3`)
	if err := syscall.Mkfifo(filepath.Join(c.Dir, "go"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Restarts, c.Hints = -1, []Hint{{"out of luck", "try again tomorrow"}}
	s := start(t, c)
	if err := os.WriteFile(filepath.Join(c.Dir, "go"), []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	until(func() bool { return s.Err() != nil && strings.Contains(s.Err().Error(), "given up") })
	for _, says := range []string{"status 3", "out of luck", "hint: try again tomorrow"} {
		if !strings.Contains(s.Err().Error(), says) {
			t.Errorf("%v, want %q", s.Err(), says)
		}
	}
}

func TestStartErrors(t *testing.T) {
	f := func(name, says string, change func(*Config)) {
		t.Helper()
		c := serving(t.TempDir(), `echo some words; exit 4`)
		change(&c)
		if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", name, err, says)
		}
	}
	f("ends", "status 4\n    some words", func(*Config) {})
	f("no program", "hint: install the server", func(c *Config) { c.Command = []string{"/no-such-program"} })
	f("nothing", "no command", func(c *Config) { c.Command = nil })
	f("never ready", "not ready within", func(c *Config) { c.Command[2], c.StartTimeout = "sleep 1000", 10*time.Millisecond })
	f("killed", "want of memory", func(c *Config) { c.Command[2] = "kill -KILL $$" })
	f("killed with all its family", "status 137", func(c *Config) { c.Command[2] = "kill -KILL 0" })
}

func TestFill(t *testing.T) {
	got := Fill([]string{"vllm", "serve", "{model}", "--port={port}"}, map[string]string{"model": "m", "port": "1"})
	if strings.Join(got, " ") != "vllm serve m --port=1" {
		t.Error(got)
	}
}

func TestFreePortsAreDifferent(t *testing.T) {
	ports, err := FreePorts(50)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ports)
	if len(slices.Compact(ports)) != 50 || ports[0] == 0 {
		t.Error(ports)
	}
}
