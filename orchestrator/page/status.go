package page

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// status is what a run writes to status.json every few seconds. The fields of the
// phase and of the items in flight are shown as they are.
type status struct {
	PID      int        `json:"pid"`
	Started  time.Time  `json:"started"`
	Updated  time.Time  `json:"updated"`
	Doing    string     `json:"doing"`
	Phase    *phase     `json:"phase"`
	InFlight []inFlight `json:"inflight"`
	Ended    string     `json:"ended"`
	Last     string     `json:"last"`
}

// phase is what a run does now.
type phase struct {
	Name  string    `json:"name"`
	Step  int64     `json:"step"`
	Of    int64     `json:"of"` // steps; 0: unknown
	Done  int       `json:"done"`
	Total int       `json:"total"`          // 0: unknown
	Unit  string    `json:"unit,omitempty"` // of Done and Total
	Since time.Time `json:"since"`
	ETA   *float64  `json:"eta_s"`
	// Beside is the sampling of a later step that goes on at the same time.
	Beside watchdog.Beside `json:"beside,omitzero"`
}

// inFlight is something that a run waits for.
type inFlight struct {
	What   string    `json:"what"`
	Detail string    `json:"detail"`
	Since  time.Time `json:"since"`
}

// maxStatus bounds the size of a status file.
const maxStatus = 1 << 20

// readStatus reads the status of a run. A run without one has an empty status.
func readStatus(dir string) (s status) {
	f, err := os.Open(filepath.Join(dir, "status.json"))
	if err != nil {
		return s
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxStatus))
	if err != nil || json.Unmarshal(text, &s) != nil {
		return status{}
	}
	return s
}

// state is the state of the run in a word; empty: it has no status.
func (s status) state(now time.Time) string {
	if s.PID <= 0 {
		return ""
	}
	return watchdog.Status{PID: s.PID, Updated: s.Updated, Ended: s.Ended}.State(now)
}

// live reports whether the run is running, as far as its status shows it.
func (s status) live(now time.Time) bool {
	return s.PID > 0 && s.Ended == "" && now.Sub(s.Updated) <= 5*watchdog.Interval
}
