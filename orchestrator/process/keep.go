package process

import (
	"context"
	"fmt"
	"sync"
)

// A Service is a command that is restarted whenever it ends. It is safe for
// concurrent use.
type Service struct {
	c      Command
	budget Budget
	alive  context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{} // closed when the last process has ended

	mu  sync.Mutex
	now *Process // nil: none runs
	err error    // why none runs
}

// Keep starts a command and returns when it is ready. Until Close, it restarts
// the command whenever it ends, within the budget. A command that is killed while
// it starts is started again too. The context bounds the first start only.
func Keep(ctx context.Context, c Command, b Budget) (*Service, error) {
	report := b.Report
	b.Report = func(why error) {
		c.Log.Warn().Err(why).Msg(c.Name + " ended and is restarted")
		if report != nil {
			report(why)
		}
	}
	var p *Process
	err := b.Start(ctx, func() (err error) {
		p, err = Start(ctx, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	s := &Service{c: p.c, budget: b, now: p, done: make(chan struct{})}
	s.alive, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go s.supervise(p)
	return s, nil
}

// Err is nil while the process runs. During a restart, and after the last one,
// it says why the process ended.
func (s *Service) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Done is closed when the last process has ended and none is started again.
func (s *Service) Done() <-chan struct{} { return s.done }

// PID returns the id of the running process, or 0 if none runs.
func (s *Service) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return 0
	}
	return s.now.PID()
}

// Close stops the process as [Process.Stop] does. It may be called more than
// once.
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

// supervise waits for each process to end and starts the next one.
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
		p = s.restart(p.Err())
	}
}

// restart starts the next process. It returns nil if the service is closed or
// the budget is spent.
func (s *Service) restart(why error) *Process {
	for {
		if err := s.budget.Next(s.alive, why); err != nil {
			if s.alive.Err() == nil {
				s.c.Log.Error().Err(why).Msg(s.c.Name + " ended too often and is not restarted")
				s.set(nil, fmt.Errorf("%w: %w", err, why))
			}
			return nil
		}
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
