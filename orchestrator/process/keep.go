package process

import (
	"context"
	"fmt"
	"sync"
)

// A Service is a command that is started again whenever it ends. It is safe
// for concurrent use.
type Service struct {
	c      Command
	budget Budget
	alive  context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{} // closed when the last process is gone

	mu  sync.Mutex
	now *Process // nil: none runs
	err error    // it is given up, or is being started again
}

// Keep starts a command and returns when it is ready. It then starts the
// command again for as long as the budget allows, until Close. The context
// bounds the first start only.
func Keep(ctx context.Context, c Command, b Budget) (*Service, error) {
	p, err := Start(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &Service{c: p.c, budget: b, now: p, done: make(chan struct{})}
	s.alive, s.cancel = context.WithCancel(context.Background())
	go s.supervise(p)
	return s, nil
}

// Err is nil while the process runs. While it is started again, and after it
// was given up, it says why the process ended.
func (s *Service) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// PID is the process that runs; 0: none does.
func (s *Service) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return 0
	}
	return s.now.PID()
}

// Close stops the process as [Process.Stop] does. It may be called again.
func (s *Service) Close() error {
	s.cancel()
	<-s.done
	return nil
}

func (s *Service) set(now *Process, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.err = now, err
}

// supervise owns the processes, one after the other.
func (s *Service) supervise(p *Process) {
	defer close(s.done)
	for p != nil {
		select {
		case <-s.alive.Done():
			p.Stop()
			return
		case <-p.Done():
		}
		s.set(nil, p.Err())
		p = s.again(p.Err())
	}
}

// again starts the next process; nil: there is none any more.
func (s *Service) again(why error) *Process {
	for {
		if err := s.budget.Next(s.alive); err != nil {
			if s.alive.Err() == nil {
				s.c.Log.Error().Err(why).Msg(s.c.Name + " is given up")
				s.set(nil, fmt.Errorf("%w: %w", err, why))
			}
			return nil
		}
		s.c.Log.Warn().Err(why).Msg(s.c.Name + " has ended and is started again")
		p, err := Start(s.alive, s.c)
		if err == nil {
			s.set(p, nil)
			return p
		}
		if s.alive.Err() != nil {
			return nil
		}
		s.set(nil, err)
		why = err
	}
}
