package watchdog

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// A Child is a process that the program has started.
type Child struct {
	Name string `json:"name"` // for example "trainer"
	PID  int    `json:"pid"`
}

// String says that the process is stopped, and how it goes on.
func (c Child) String() string {
	return fmt.Sprintf("%s (process %d) is stopped; kill -CONT %d lets it go on", c.Name, c.PID, c.PID)
}

// Owns records that a child process exists until end is called.
func Owns(ctx context.Context, name string, pid int) (end func()) {
	w := From(ctx)
	if w == nil {
		return func() {}
	}
	c := Child{Name: name, PID: pid}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owned[c] = false
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.owned, c)
	}
}

// stopped returns the children that a signal has stopped, those of the program
// included. w.mu is not held.
func (w *Watch) stopped() []Child {
	var out []Child
	for ; w != nil; w = w.parent {
		w.mu.Lock()
		for c := range w.owned {
			if w.isStopped(c.PID) {
				out = append(out, c)
			}
		}
		w.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Child) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.PID, b.PID))
	})
	return out
}

// newlyStopped returns a line for each child that was stopped since the last call.
// w.mu is held.
func (w *Watch) newlyStopped() []string {
	var lines []string
	for c, reported := range w.owned {
		now := w.isStopped(c.PID)
		if now && !reported {
			lines = append(lines, w.prefix()+c.String())
		}
		w.owned[c] = now
	}
	slices.Sort(lines)
	return lines
}

// isStopped reads the state of a process. It is false where there is no /proc.
func isStopped(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// The name, in parentheses, may contain any character.
	_, state, found := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	return found && (strings.HasPrefix(state, "T") || strings.HasPrefix(state, "t"))
}
