package watchdog

import (
	"fmt"
	"strings"
	"time"
)

// The phases of a run.
const (
	PhaseSetUp      = "set-up"
	PhaseStart      = "start" // of environment, trainer and server
	PhaseWarmStart  = "warm start"
	PhaseSampling   = "sampling"
	PhaseReflection = "reflection"           // after the last episode has ended
	PhaseWaiting    = "waiting for episodes" // of a step that is sampled beside the training
	PhaseTraining   = "training"
	PhasePublishing = "publishing"
	PhaseCommit     = "commit"
	PhaseEvaluation = "evaluation"
	PhaseStop       = "stop" // of trainer and server
	PhaseDemos      = "demonstrations"
)

// A Phase is a part of a run, and how far it is.
type Phase struct {
	Name  string `json:"name"`
	Step  int64  `json:"step"`  // the training step that the phase belongs to; 0: none
	Of    int64  `json:"of"`    // steps of the run; 0: unknown
	Done  int    `json:"done"`  // units that are done
	Total int    `json:"total"` // 0: unknown
	Unit  string `json:"unit"`  // for example "episodes"; empty: nothing is counted
	// Detail says more about a phase in which nothing is counted.
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"` // when the phase began
	Begun  int       `json:"begun"` // what of Done was done before Since
	// Beside is the sampling of a later step that goes on at the same time.
	Beside Beside `json:"beside,omitzero"`
	// Usual is how many seconds the phase took the last time; 0: unknown.
	Usual float64 `json:"usual_s,omitempty"`
}

// Beside is what goes on beside a phase.
type Beside struct {
	Name  string `json:"name"`
	Step  int64  `json:"step"`
	Done  int    `json:"done"`
	Total int    `json:"total"`
	Unit  string `json:"unit"`
}

// AsBeside describes the phase as one that goes on beside another.
func (p Phase) AsBeside() Beside {
	return Beside{Name: p.Name, Step: p.Step, Done: p.Done, Total: p.Total, Unit: p.Unit}
}

// Text is, for example, "step 8: sampling 12 of 64 episodes". It is empty without a name.
func (b Beside) Text() string {
	switch {
	case b.Name == "":
		return ""
	case b.Total == 0:
		return fmt.Sprintf("step %d: %s", b.Step, b.Name)
	}
	return fmt.Sprintf("step %d: %s %d of %d %s", b.Step, b.Name, b.Done, b.Total, b.Unit)
}

// Rate returns the units that are done per second, 0 if it is unknown.
func (p Phase) Rate(now time.Time) float64 {
	age := now.Sub(p.Since).Seconds()
	if n := p.Done - p.Begun; n > 0 && age > 0 {
		return float64(n) / age
	}
	return 0
}

// ETA returns the time until the phase ends: by its rate, or else by what it
// took the last time.
func (p Phase) ETA(now time.Time) (left time.Duration, known bool) {
	if rate := p.Rate(now); rate > 0 && p.Total > 0 {
		return time.Duration(float64(max(0, p.Total-p.Done)) / rate * float64(time.Second)), true
	}
	if p.Usual > 0 {
		return max(0, time.Duration(p.Usual*float64(time.Second))-now.Sub(p.Since)), true
	}
	return 0, false
}

// Text names the phase, for example "step 4: training".
func (p Phase) Text() string {
	switch {
	case p.Name == PhaseEvaluation && p.Step > 0:
		return fmt.Sprintf("evaluation after step %d", p.Step)
	case p.Step > 0:
		return fmt.Sprintf("step %d: %s", p.Step, p.Name)
	}
	return p.Name
}

// Described names the phase with its detail, for example "start: trainer and server".
func (p Phase) Described() string {
	if p.Detail == "" {
		return p.Text()
	}
	return p.Text() + ": " + p.Detail
}

// Progress says how far the phase is, for example
// "12 of 32 episodes, 3.1/s, for 4s, about 6s left".
func (p Phase) Progress(now time.Time) string {
	var parts []string
	if p.Total > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d %s", p.Done, p.Total, p.Unit))
	}
	if rate := p.Rate(now); rate > 0 {
		parts = append(parts, RateText(rate))
	}
	parts = append(parts, "for "+Span(now.Sub(p.Since)))
	if left, known := p.ETA(now); known {
		parts = append(parts, "about "+Span(left)+" left")
	}
	if beside := p.Beside.Text(); beside != "" {
		parts = append(parts, "beside "+beside)
	}
	return strings.Join(parts, ", ")
}

// RateText is a rate per second or, if it is slow, per minute: "3.1/s", "12/min".
func RateText(perSecond float64) string {
	switch {
	case perSecond >= 100:
		return fmt.Sprintf("%.0f/s", perSecond)
	case perSecond >= 1:
		return fmt.Sprintf("%.1f/s", perSecond)
	case perSecond*60 >= 10:
		return fmt.Sprintf("%.0f/min", perSecond*60)
	}
	return fmt.Sprintf("%.1f/min", perSecond*60)
}

// Span is a duration as people read it: "6s", "1m05s", "2h03m".
func Span(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	}
	return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
}

// SetPhase says in which phase the run is. A phase that has moved on counts as
// progress.
func (w *Watch) SetPhase(p Phase) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.phase == nil || *w.phase != p {
		w.progress, w.stalled = time.Now(), false
	}
	w.phase, w.doing = &p, p.Text()
}

// A PhaseStatus is a phase with its ETA.
type PhaseStatus struct {
	Phase
	ETA *float64 `json:"eta_s"` // seconds; null: unknown
}

// Status returns the phase with its ETA.
func (p Phase) Status(now time.Time) PhaseStatus {
	s := PhaseStatus{Phase: p}
	if left, known := p.ETA(now); known {
		eta := left.Seconds()
		s.ETA = &eta
	}
	return s
}
