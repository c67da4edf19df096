// Package launch runs an inference server as a child process for as long as we
// live: it waits until the server is ready, starts it again when it ends, and
// explains ends with what the server wrote.
package launch

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Config says what to run. Command, Name and Ready are required.
type Config struct {
	Name    string   // of the server in errors and logs, for example "vllm"
	Command []string // program and arguments
	Env     []string // KEY=VALUE, added to our own
	Dir     string   // working directory; empty: ours
	Secret  string   // stands in Command or Env and in no log; empty: nothing does
	// Ready is polled until it is nil.
	Ready func(ctx context.Context) error

	StartTimeout time.Duration // until it is ready; 0: 10 minutes
	Poll         time.Duration // between two questions whether it is; 0: 250 milliseconds
	Grace        time.Duration // that it gets to end by itself; 0: 10 seconds
	// Restarts is how often it may be started again within RestartWindow
	// before it is given up; 0: 3 in 30 minutes, negative: never.
	Restarts      int
	RestartWindow time.Duration
	Hints         []Hint // first match wins

	Log zerolog.Logger // the zero value is silent; the server's lines are at level debug
}

// A Hint is a remedy for what a server says when it ends.
type Hint struct{ Said, Remedy string }

func (c Config) withDefaults() Config {
	after := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	after(&c.StartTimeout, 10*time.Minute)
	after(&c.Poll, 250*time.Millisecond)
	after(&c.Grace, 10*time.Second)
	after(&c.RestartWindow, 30*time.Minute)
	if c.Restarts == 0 {
		c.Restarts = 3
	}
	return c
}

// open is a text without the secret.
func (c Config) open(text string) string {
	if c.Secret == "" {
		return text
	}
	return strings.ReplaceAll(text, c.Secret, "…")
}

// A Server is a process that is kept running. It is safe for concurrent use.
type Server struct {
	cfg    Config
	alive  context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{} // closed when the last process is gone
	dead   []time.Time   // recent ends; the supervisor's

	mu   sync.Mutex
	pid  int   // of the process that runs; 0: none
	fail error // it is given up, or is being started again
}

// Start runs the server and returns when it is ready. The context bounds the
// start only.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if len(cfg.Command) == 0 || cfg.Ready == nil {
		return nil, fmt.Errorf("launch %s: no command", cfg.Name)
	}
	s := &Server{cfg: cfg, done: make(chan struct{})}
	s.alive, s.cancel = context.WithCancel(context.Background())
	p, err := s.begin(ctx)
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("launch %s: %w", cfg.Name, err)
	}
	go s.supervise(p)
	return s, nil
}

// Err is nil while the server runs. While it is started again and after it was
// given up, it says why it ended.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fail
}

// PID is the server's process group, 0 while none runs.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Close ends the server: SIGTERM, and SIGKILL after the grace. It may be
// called again.
func (s *Server) Close() error {
	s.cancel()
	<-s.done
	return nil
}

func (s *Server) set(pid int, fail error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid, s.fail = pid, fail
}

// begin starts a process and waits until it is ready.
func (s *Server) begin(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout, fmt.Errorf("not ready within %v", s.cfg.StartTimeout))
	defer cancel()
	p, err := run(s.cfg)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	s.cfg.Log.Info().Int("pid", p.pid()).Str("command", s.cfg.open(strings.Join(s.cfg.Command, " "))).Msg("starting " + s.cfg.Name)
	for {
		if s.cfg.Ready(ctx) == nil && p.runs() {
			s.cfg.Log.Info().Int("pid", p.pid()).Dur("took", time.Since(started)).Msg(s.cfg.Name + " is ready")
			s.set(p.pid(), nil)
			return p, nil
		}
		select {
		case <-p.gone:
			return nil, p.err()
		case <-ctx.Done():
			p.kill()
			<-p.gone
			return nil, fmt.Errorf("%w%s", context.Cause(ctx), p.output.said())
		case <-time.After(s.cfg.Poll):
		}
	}
}

// supervise owns the processes, one after the other. An end is a failure
// whatever its status: servers have ended with 0 after an internal error.
func (s *Server) supervise(p *process) {
	defer close(s.done)
	for {
		select {
		case <-s.alive.Done():
			p.stop()
			return
		case <-p.gone:
		}
		why := p.err()
		s.set(0, why)
		if p = s.again(why); p == nil {
			return
		}
	}
}

// again starts the next process, unless there were too many. Nil: no more.
func (s *Server) again(why error) *process {
	for s.alive.Err() == nil {
		if !s.allowed() {
			s.cfg.Log.Error().Err(why).Msg(s.cfg.Name + " is given up")
			s.set(0, fmt.Errorf("given up after %d restarts within %v: %w", max(s.cfg.Restarts, 0), s.cfg.RestartWindow, why))
			return nil
		}
		s.cfg.Log.Warn().Err(why).Msg(s.cfg.Name + " ended and is started again")
		p, err := s.begin(s.alive)
		if err == nil {
			return p
		}
		why = err
	}
	return nil
}

// allowed counts a restart against the budget.
func (s *Server) allowed() bool {
	now := time.Now()
	for len(s.dead) > 0 && now.Sub(s.dead[0]) > s.cfg.RestartWindow {
		s.dead = s.dead[1:]
	}
	s.dead = append(s.dead, now)
	return len(s.dead) <= s.cfg.Restarts
}

// Fill replaces the places {name} in a command's words.
func Fill(command []string, places map[string]string) []string {
	var out []string
	for _, word := range command {
		for name, value := range places {
			word = strings.ReplaceAll(word, "{"+name+"}", value)
		}
		out = append(out, word)
	}
	return out
}

// Has says whether the place {name} is in a command.
func Has(command []string, name string) bool {
	return slices.ContainsFunc(command, func(word string) bool { return strings.Contains(word, "{"+name+"}") })
}

// FreePorts are n different ports of the loopback that nobody listens on now.
func FreePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // not before all are found, lest one is found twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
