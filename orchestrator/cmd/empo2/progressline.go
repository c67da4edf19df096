package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rivo/uniseg"
	"golang.org/x/term"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

const (
	// redrawEvery is the time between two updates of the progress line on a terminal.
	redrawEvery = 200 * time.Millisecond
	// plainEvery is the time between two lines of progress without a terminal, and
	// jsonEvery that between two events of one phase.
	plainEvery = 30 * time.Second
	jsonEvery  = 5 * time.Second
)

// progressLine shows the phase of each run: on a terminal as one line that is drawn
// again in place, elsewhere as a plain line from time to time, with --json as events.
// It belongs to a console, whose lock guards it.
type progressLine struct {
	out      *console
	terminal bool
	width    func() int // of the terminal, in columns

	phases map[string]watchdog.Phase // by the label of the run
	runs   [2]int                    // that are done, and all; 0: there is one
	told   map[string]toldPhase      // the newest event of each run
	draft  string                    // a line that is being written, in place of the phases; empty: there is none
	shown  bool                      // the line is on the screen

	stop chan struct{} // nil: nothing ticks
	done sync.WaitGroup
}

// toldPhase is the phase of the newest event of a run.
type toldPhase struct {
	name  string
	since time.Time // of the phase
	at    time.Time // when it was told
}

// phase says in which phase a run is. label names the run; it is empty if there is
// only one.
func (c *console) phase(label string, p watchdog.Phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.line
	if l.phases == nil {
		l.phases, l.told = map[string]watchdog.Phase{}, map[string]toldPhase{}
	}
	l.phases[label] = p
	if c.jsonLines {
		l.event(label, p)
	}
	if l.stop == nil {
		l.start()
	}
}

// phasesOf returns a function that says in which phase a run is.
func (c *console) phasesOf(label string) func(watchdog.Phase) {
	return func(p watchdog.Phase) { c.phase(label, p) }
}

// draft shows a line that is being written, on a terminal, until it is printed or
// replaced. An empty line ends it.
func (c *console) draft(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line.draft = line; c.line.terminal && line != "" {
		c.line.draw()
	}
}

// countRuns says how many runs a command makes, and how many of them are done.
func (c *console) countRuns(done, all int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line.runs = [2]int{done, all}
}

// endPhase says that a run is in no phase any more.
func (c *console) endPhase(label string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.line.phases, label)
	c.line.clear()
}

// close ends the progress line. Everything can still be printed.
func (c *console) close() {
	c.mu.Lock()
	stop := c.line.stop
	c.line.stop, c.line.phases = nil, nil
	c.line.clear()
	c.mu.Unlock()
	if stop != nil {
		close(stop)
		c.line.done.Wait()
	}
}

// start begins to tell the phases from time to time, until close is called.
func (l *progressLine) start() {
	stop, every := make(chan struct{}), plainEvery
	switch {
	case l.terminal:
		every = redrawEvery
	case l.out.jsonLines:
		every = jsonEvery / 20 // repeat leaves out what is too early
	}
	l.stop = stop
	l.done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			l.out.mu.Lock()
			l.tick()
			l.out.mu.Unlock()
		}
	})
}

// tick is called with the console's lock.
func (l *progressLine) tick() {
	labels := slices.Sorted(maps.Keys(l.phases))
	if l.out.jsonLines {
		for _, label := range labels {
			l.repeat(label)
		}
	}
	if l.terminal {
		l.draw()
		return
	}
	if l.out.jsonLines {
		return
	}
	for _, label := range labels {
		fmt.Fprintf(l.out.err, "progress: %s\n", l.text(label, l.phases[label], time.Now()))
	}
}

// clear removes the line from the screen. Everything that the console prints calls
// it first.
func (l *progressLine) clear() {
	if l.shown {
		l.shown = false
		_, _ = io.WriteString(l.out.raw, "\r\x1b[K") // a terminal that is gone needs no line
	}
}

// draw writes the line in the place of the one before it. If there are several runs,
// it shows one after the other.
func (l *progressLine) draw() {
	if len(l.phases) == 0 && l.draft == "" {
		return
	}
	text, now, width := l.draft, time.Now(), min(columns, l.width()-1)
	if text == "" {
		labels := slices.Sorted(maps.Keys(l.phases))
		text = l.fitting(labels[int(now.Unix()/2)%len(labels)], now, width)
	}
	l.shown = true
	_, _ = io.WriteString(l.out.raw, "\r"+head(text, width)+"\x1b[K")
}

// fitting is the text without what matters least: as much as it takes to show the rate
// and the time that is left.
func (l *progressLine) fitting(label string, now time.Time, width int) string {
	p := l.phases[label]
	text := l.text(label, p, now)
	for _, shorten := range []func(excess int){
		func(excess int) { p.Detail = head(p.Detail, max(0, uniseg.StringWidth(p.Detail)-excess)) },
		func(int) { p.Detail, p.Unit = "", "" },
		func(int) { p.Of = 0 },
		func(int) { p.Step = 0 },
	} {
		excess := uniseg.StringWidth(text) - width
		if excess <= 0 {
			break
		}
		shorten(excess)
		text = l.text(label, p, now)
	}
	return text
}

// text says how far a run is, and how many runs are done.
func (l *progressLine) text(label string, p watchdog.Phase, now time.Time) string {
	text := progressText(label, p, now)
	if l.runs[1] > 1 {
		return fmt.Sprintf("%d/%d runs  %s", l.runs[0], l.runs[1], text)
	}
	return text
}

// event prints a phase as a JSON line if it is new, complete, or some time after the
// one before.
func (l *progressLine) event(label string, p watchdog.Phase) {
	before, now := l.told[label], time.Now()
	complete := p.Total > 0 && p.Done == p.Total
	if before.name == p.Name && before.since.Equal(p.Since) && now.Sub(before.at) < jsonEvery && !complete {
		return
	}
	l.tell(label, p, now)
}

// repeat prints the phase of a run again if nothing was told for some time.
func (l *progressLine) repeat(label string) {
	if now := time.Now(); now.Sub(l.told[label].at) > jsonEvery {
		l.tell(label, l.phases[label], now)
	}
}

func (l *progressLine) tell(label string, p watchdog.Phase, now time.Time) {
	l.told[label] = toldPhase{p.Name, p.Since, now}
	l.out.writeJSON("progress", struct {
		Run string `json:"run,omitempty"`
		watchdog.PhaseStatus
	}{label, p.Status(now)})
}

// progressText says in which phase a run is, for example
// "step 4/100  sampling 12/32 episodes  3.1/s  6s left".
func progressText(label string, p watchdog.Phase, now time.Time) string {
	var parts []string
	if label != "" {
		parts = append(parts, label)
	}
	switch {
	case p.Step > 0 && p.Of >= p.Step && p.Of < unlimited:
		parts = append(parts, fmt.Sprintf("step %d/%d", p.Step, p.Of))
	case p.Step > 0:
		parts = append(parts, fmt.Sprintf("step %d", p.Step))
	}
	name := p.Name
	if p.Total > 0 {
		name += strings.TrimSuffix(fmt.Sprintf(" %d/%d %s", p.Done, p.Total, p.Unit), " ")
	}
	parts = append(parts, name)
	if p.Detail != "" {
		parts = append(parts, p.Detail)
	}
	if rate := p.Rate(now); rate > 0 {
		parts = append(parts, watchdog.RateText(rate))
	}
	if left, known := p.ETA(now); known && left > 0 {
		return strings.Join(append(parts, watchdog.Span(left)+" left"), "  ")
	}
	return strings.Join(append(parts, watchdog.Span(now.Sub(p.Since))), "  ")
}

// terminalOf returns the terminal that w writes to. A terminal that cannot draw a
// line again is none.
func terminalOf(w io.Writer) (f *os.File, ok bool) {
	f, ok = w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// widthOf is the width of a terminal in columns; 80 if it is unknown.
func widthOf(f *os.File) int {
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 0
	}
	return cmp.Or(width, columns)
}
