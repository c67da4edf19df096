package scienceworld

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// exitGrace is how long a JVM may take to exit after its standard input ended.
const exitGrace = 5 * time.Second

// launcher starts JVMs.
type launcher struct {
	java    java
	jar     jar
	flags   []string
	timeout time.Duration // until the port is known
	log     zerolog.Logger
}

// A jvm is one child process. Its working directory is a scratch directory of
// its own, because the simulator writes there.
type jvm struct {
	port    int
	scratch string
	cmd     *exec.Cmd
	stdin   io.Closer
	stderr  *tail
	drained sync.WaitGroup
	exited  chan struct{} // closed when the process was waited for
	log     zerolog.Logger
}

// launch starts a JVM and waits for its port.
func (l launcher) launch(ctx context.Context) (*jvm, error) {
	scratch, err := os.MkdirTemp("", "empo2-scienceworld-")
	if err != nil {
		return nil, err
	}
	j := &jvm{scratch: scratch, stderr: &tail{}, exited: make(chan struct{}), log: l.log}
	began := time.Now()
	if err := j.start(ctx, l); err != nil {
		os.RemoveAll(scratch)
		return nil, fmt.Errorf("start %s %s: %w", l.java.path, l.jar.path, err)
	}
	j.log.Info().Str("env", Name).Int("pid", j.cmd.Process.Pid).Int("port", j.port).
		Dur("took", time.Since(began)).Msg("jvm started")
	return j, nil
}

func (j *jvm) start(ctx context.Context, l launcher) error {
	if err := copyFile(filepath.Join(j.scratch, typeIDsName), l.jar.typeIDs); err != nil {
		return err
	}
	args := append(append([]string{}, l.flags...), "-classpath", l.jar.path, "py4j.GatewayServer", "--die-on-broken-pipe", "0")
	j.cmd = exec.Command(l.java.path, args...)
	j.cmd.Dir, j.cmd.Env = j.scratch, cleanEnviron()
	j.cmd.Stderr = j.stderr
	j.cmd.WaitDelay = time.Second
	detach(j.cmd)
	stdin, err := j.cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := j.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := j.cmd.Start(); err != nil {
		return err
	}
	j.stdin = stdin
	port := make(chan string, 1)
	j.drained.Go(func() { drain(stdout, port) })
	go j.reap()
	if err := j.awaitPort(ctx, port, l.timeout); err != nil {
		j.kill() // after it all that the process said is there
		if said := j.stderr.String(); said != "" {
			return fmt.Errorf("%w: %s", err, said)
		}
		return err
	}
	return nil
}

// drain reads the port from the first line, and for ever after throws away
// what the simulator prints, which would otherwise fill the pipe and block it.
func drain(stdout io.Reader, port chan<- string) {
	r := bufio.NewReader(stdout)
	line, _ := r.ReadString('\n')
	port <- line
	io.Copy(io.Discard, r) // ends with the process
}

// reap waits for the process; it is the only one that does.
func (j *jvm) reap() {
	j.drained.Wait()
	j.cmd.Wait() // how it ended shows in the calls that it failed
	close(j.exited)
}

func (j *jvm) awaitPort(ctx context.Context, port <-chan string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no port within %s", timeout))
	defer cancel()
	select {
	case line := <-port:
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || n <= 0 || n > 65535 {
			return fmt.Errorf("no port in the JVM's first line %s", shorten(line))
		}
		j.port = n
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// kill ends the process at once, hung or not, and removes its directory.
func (j *jvm) kill() {
	j.cmd.Process.Kill() // an error means that it is gone already
	j.stdin.Close()
	<-j.exited
	os.RemoveAll(j.scratch)
}

// close lets the process exit by itself, which the end of its standard input
// tells it to, and kills it if it does not.
func (j *jvm) close() {
	j.stdin.Close()
	select {
	case <-j.exited:
	case <-time.After(exitGrace):
		j.log.Warn().Str("env", Name).Int("pid", j.cmd.Process.Pid).Msg("jvm does not exit, killing it")
	}
	j.kill()
}

// restoreTypeIDs puts back the published table. A class loader reads it once,
// so what an older simulator of this JVM added must not reach a newer one.
func (j *jvm) restoreTypeIDs(from string) error {
	return copyFile(filepath.Join(j.scratch, typeIDsName), from)
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// A tail keeps the last bytes that a process wrote. Safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements [io.Writer]; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	const most = 2 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - most; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(p), nil
}

// String returns what is kept, without surrounding space.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

func (t *tail) err() error {
	if s := t.String(); s != "" {
		return errors.New(s)
	}
	return nil
}
