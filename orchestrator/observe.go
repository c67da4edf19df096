package orchestrator

import (
	"context"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// An Observer is told what happens in a run. Its methods are called one at a
// time and must return quickly, because the run waits for them.
type Observer interface {
	// Phase is called when a phase begins and whenever it has moved on.
	Phase(watchdog.Phase)
	// Step is called after the commit of a step.
	Step(StepMetrics)
	// Evaluation is called after an evaluation was recorded.
	Evaluation(Evaluation)
	// Prompt is called before a step that takes a changed prompt template, and
	// before one that refuses it.
	Prompt(PromptReload)
}

// Observers tells several observers, in order.
type Observers []Observer

// Phase implements [Observer].
func (all Observers) Phase(p watchdog.Phase) {
	for _, o := range all {
		o.Phase(p)
	}
}

// Step implements [Observer].
func (all Observers) Step(m StepMetrics) {
	for _, o := range all {
		o.Step(m)
	}
}

// Evaluation implements [Observer].
func (all Observers) Evaluation(e Evaluation) {
	for _, o := range all {
		o.Evaluation(e)
	}
}

// Prompt implements [Observer].
func (all Observers) Prompt(r PromptReload) {
	for _, o := range all {
		o.Prompt(r)
	}
}

var _ Observer = Observers(nil)

// A serialObserver calls the methods of an Observer one at a time.
type serialObserver struct {
	mu sync.Mutex
	to Observer
}

// Phase implements [Observer].
func (s *serialObserver) Phase(p watchdog.Phase) { s.call(func() { s.to.Phase(p) }) }

// Step implements [Observer].
func (s *serialObserver) Step(m StepMetrics) { s.call(func() { s.to.Step(m) }) }

// Evaluation implements [Observer].
func (s *serialObserver) Evaluation(e Evaluation) { s.call(func() { s.to.Evaluation(e) }) }

// Prompt implements [Observer].
func (s *serialObserver) Prompt(r PromptReload) { s.call(func() { s.to.Prompt(r) }) }

func (s *serialObserver) call(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// PhaseRecord says when a phase of a step began and how long it took.
type PhaseRecord struct {
	Name    string    `json:"name"`
	Since   time.Time `json:"since"`
	Seconds float64   `json:"seconds"`
	Done    int       `json:"done,omitempty"` // units that it has done
}

// progress knows the phase that a run is in, and tells the observer and the
// watchdog. It is safe for concurrent use.
type progress struct {
	observer Observer // nil: not told
	of       int64    // steps of the run; 0: unknown

	mu    sync.Mutex
	watch *watchdog.Watch
	now   watchdog.Phase
	// beside is the sampling of a later step; without a name: there is none.
	beside watchdog.Phase
	// main shows the phases of this one beside its own; nil: they are shown as they are.
	main  *progress
	usual map[string]float64 // seconds that a phase took the last time
	ended []PhaseRecord      // of the step that runs
}

// begin ends the present phase and begins the next one.
func (p *progress) begin(ctx context.Context, next watchdog.Phase) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.usual == nil {
		p.usual = map[string]float64{}
	}
	p.end()
	next.Since, next.Of, next.Done = time.Now(), p.of, next.Begun
	next.Usual = p.usual[next.Name]
	p.now, p.watch = next, watchdog.From(ctx)
	p.tell()
}

// end records what the present phase took.
func (p *progress) end() {
	if p.now.Name == "" {
		return
	}
	r := PhaseRecord{Name: p.now.Name, Since: p.now.Since.UTC(), Seconds: time.Since(p.now.Since).Seconds(),
		Done: p.now.Done - p.now.Begun}
	p.usual[r.Name], p.ended = r.Seconds, append(p.ended, r)
}

// count sets how far the present phase is.
func (p *progress) count(done, total int, unit string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Begun, p.now.Done, p.now.Total, p.now.Unit = done, done, total, unit
	p.tell()
}

// add counts units that are done, if the run is in the phase.
func (p *progress) add(name string, n int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.Name != name {
		return
	}
	p.now.Done += n
	p.tell()
}

// part returns a function that is told how many of the rows of some episodes are done.
// The episodes count as done in proportion.
func (p *progress) part(name string, episodes, rows int) func(done int) {
	if p == nil {
		return func(int) {}
	}
	p.mu.Lock()
	begun := p.now.Done
	p.mu.Unlock()
	return func(done int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.now.Name == name && rows > 0 {
			p.now.Done = begun + episodes*min(done, rows)/rows
			p.tell()
		}
	}
}

// tell is called with the lock, so that observers are told in order.
func (p *progress) tell() {
	if p.main != nil {
		p.main.setBeside(p.now)
		return
	}
	shown := p.now
	switch {
	case p.beside.Name == "":
	case p.now.Name == watchdog.PhaseWaiting:
		shown = p.beside
		shown.Of = p.of
	default:
		shown.Beside = p.beside.AsBeside()
	}
	p.watch.SetPhase(shown)
	if p.observer != nil {
		p.observer.Phase(shown)
	}
}

// side returns a progress whose phases are shown beside those of p.
func (p *progress) side() *progress { return &progress{main: p} }

// setBeside shows the sampling of a later step, or none.
func (p *progress) setBeside(phase watchdog.Phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beside = phase
	if p.now.Name != "" {
		p.tell()
	}
}

// finish ends the present phase without a next one, and returns those of the step.
func (p *progress) finish() []PhaseRecord {
	p.mu.Lock()
	p.end()
	p.now = watchdog.Phase{}
	p.tell()
	p.mu.Unlock()
	return p.taken()
}

// taken returns the phases that have ended since it was called last.
func (p *progress) taken() []PhaseRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.ended
	p.ended = nil
	return out
}

// remember takes what phases took from a step of an earlier process.
func (p *progress) remember(recent []StepMetrics) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.usual == nil {
		p.usual = map[string]float64{}
	}
	for _, m := range recent {
		for _, r := range m.Phases {
			p.usual[r.Name] = r.Seconds
		}
	}
}

// stepProgress tells how far the sampling of a step is. Episodes are reflected upon
// while others still run, so the phase of reflection begins when all have ended.
type stepProgress struct {
	progress *progress
	step     int64
	episodes int // of the step
	reflects bool

	mu   sync.Mutex
	left int // episodes that have not ended
	done int // episodes that are stored and reflected upon
}

// episode counts an episode that has ended.
func (s *stepProgress) episode(ctx context.Context) {
	s.progress.add(watchdog.PhaseSampling, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left--; s.left == 0 && s.reflects && s.done < s.episodes {
		s.progress.begin(ctx, watchdog.Phase{Name: watchdog.PhaseReflection, Step: s.step, Begun: s.done,
			Total: s.episodes, Unit: "tips"})
	}
}

// finished counts an episode that is stored and reflected upon.
func (s *stepProgress) finished() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done++
	s.progress.add(watchdog.PhaseReflection, 1)
}
