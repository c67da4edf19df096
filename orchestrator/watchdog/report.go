package watchdog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Interval is the time between two looks at what is in flight.
const Interval = 2 * time.Second

// Options configure [Watch.Run].
type Options struct {
	Log zerolog.Logger // the zero value is silent
	// Status is called at every look. Nil: not called.
	Status func()
}

// longestSilence bounds the time until an item is reported again.
const longestSilence = 30 * time.Second

// Run reports items that take too long, and child processes that are stopped, as
// warnings, until ctx ends. Each item is reported again whenever its age has doubled,
// and at least every 30 seconds.
func (w *Watch) Run(ctx context.Context, o Options) {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, line := range w.due() {
			o.Log.Warn().Msg(line)
		}
		if o.Status != nil {
			o.Status()
		}
	}
}

// due returns a line for the oldest item of each subsystem that takes too long.
func (w *Watch) due() []string {
	w.mu.Lock()
	now := time.Now()
	var lines []string
	for _, i := range w.oldest() {
		age := now.Sub(i.Since)
		if age < i.reportAt {
			continue
		}
		i.reportAt = age + min(age, longestSilence)
		lines = append(lines, w.prefix()+"still waiting for "+i.describe(now))
	}
	lines = append(lines, w.newlyStopped()...)
	children := slices.Clone(w.children)
	w.mu.Unlock()
	for _, c := range children {
		lines = append(lines, c.due()...)
	}
	return lines
}

func (w *Watch) prefix() string {
	if w.name == "" {
		return ""
	}
	return w.name + ": "
}

// oldest returns the oldest item of each subsystem, the oldest first.
func (w *Watch) oldest() []*Item {
	of := map[string]*Item{}
	count := map[string]int{}
	for i := range w.flying {
		count[i.Subsystem]++
		if o := of[i.Subsystem]; o == nil || i.Since.Before(o.Since) {
			of[i.Subsystem] = i
		}
	}
	items := slices.SortedFunc(maps.Values(of), func(a, b *Item) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Subsystem, b.Subsystem))
	})
	for _, i := range items {
		i.Others = count[i.Subsystem] - 1
	}
	return items
}

// describe says what an item is and since when it is in flight.
func (i *Item) describe(now time.Time) string {
	text := fmt.Sprintf("the %s: %s", i.Subsystem, i.What)
	switch i.Subsystem {
	case "start":
		text = "the start of " + i.What
	case "tool":
		text = "the end of " + i.What
	}
	text += fmt.Sprintf(", for %s", now.Sub(i.Since).Round(time.Second))
	if i.Limit > 0 {
		text += fmt.Sprintf(" (deadline %s)", i.Limit.Round(time.Second))
	}
	switch i.Others {
	case 0:
	case 1:
		text += "; 1 other waits too"
	default:
		text += fmt.Sprintf("; %d others wait too", i.Others)
	}
	return text
}

// Idle returns how long nothing has finished, and reports a stall once: the
// first call after limit returns text.
func (w *Watch) Idle(limit time.Duration) (text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	idle := now.Sub(w.progress)
	if limit <= 0 || idle < limit || w.stalled {
		return ""
	}
	w.stalled = true
	text = fmt.Sprintf("nothing has finished for %s", idle.Round(time.Second))
	if w.doing != "" {
		text += " in " + w.doing
	}
	for _, i := range w.oldest() {
		text += "; waiting for " + i.describe(now)
	}
	return text
}

// Status is a snapshot of a run.
type Status struct {
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Updated time.Time `json:"updated"` // when the snapshot was made
	Doing   string    `json:"doing"`
	// Phase is nil before the first one and after the end.
	Phase    *PhaseStatus `json:"phase"`
	Last     string       `json:"last,omitempty"`  // the newest result
	Finished int64        `json:"finished"`        // requests, calls and starts that ended
	Progress time.Time    `json:"progress"`        // when the last one ended
	InFlight []Item       `json:"inflight"`        // the oldest of each subsystem
	Stopped  []Child      `json:"stopped"`         // child processes that a signal has stopped
	Ended    string       `json:"ended,omitempty"` // how the run ended; empty: it runs
}

// ParseStatus reads the JSON of a snapshot.
func ParseStatus(text []byte) (s Status, err error) {
	if err = json.Unmarshal(text, &s); err == nil && (s.PID <= 0 || s.Updated.IsZero()) {
		err = errors.New("it has no process or no time")
	}
	return s, err
}

// Status returns a snapshot. PID, Started and Ended are the caller's.
func (w *Watch) Status() Status {
	stopped := w.stopped()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Status{Stopped: append([]Child{}, stopped...), Updated: time.Now(), Doing: w.doing, Last: w.last,
		Finished: w.finished, Progress: w.progress, InFlight: []Item{}}
	if w.phase != nil {
		phase := w.phase.Status(s.Updated)
		s.Phase = &phase
	}
	for _, i := range w.oldest() {
		s.InFlight = append(s.InFlight, *i)
	}
	return s
}

// Lines describes the snapshot as it was when it was made.
func (s Status) Lines() []string {
	var lines []string
	if s.Ended == "" {
		doing := cmp.Or(s.Doing, "starting")
		if s.Phase != nil && s.Phase.Detail != "" {
			doing += ": " + s.Phase.Detail
		}
		lines = append(lines, "doing: "+doing)
		if s.Phase != nil {
			lines = append(lines, "phase: "+s.Phase.Described()+", "+s.Phase.Progress(s.Updated))
		}
	}
	if s.Last != "" {
		lines = append(lines, "last: "+s.Last)
	}
	lines = append(lines, s.ended())
	for _, c := range s.Stopped {
		lines = append(lines, c.String())
	}
	for _, i := range s.InFlight {
		lines = append(lines, "waiting for "+i.describe(s.Updated))
	}
	return lines
}

// ended counts the calls that have ended.
func (s Status) ended() string {
	age := s.Updated.Sub(s.Progress).Round(time.Second)
	switch s.Finished {
	case 0:
		return fmt.Sprintf("progress: no call has ended for %s", age)
	case 1:
		return fmt.Sprintf("progress: 1 call has ended, %s before this snapshot", age)
	}
	return fmt.Sprintf("progress: %d calls have ended, the last one %s before this snapshot", s.Finished, age)
}

// Text describes all that is in flight, children included.
func (w *Watch) Text() string {
	lines := w.Status().Lines()
	w.mu.Lock()
	children := slices.Clone(w.children)
	name := w.prefix()
	w.mu.Unlock()
	if len(children) > 0 { // the program itself does nothing beside its runs
		lines = nil
	}
	for i := range lines {
		lines[i] = name + lines[i]
	}
	for _, c := range children {
		lines = append(lines, c.Text())
	}
	return strings.Join(lines, "\n")
}
