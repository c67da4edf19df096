package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory returns the resident memory of the process in bytes. Pages that it
// shares with other processes count in part. It is 0 where the system does not
// tell.
func (p *Process) Memory() int64 {
	if !p.Running() {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID()))
	if err != nil {
		return 0
	}
	return proportional(string(text))
}

// proportional is the value of Pss in the text of smaps_rollup, in bytes.
func proportional(text string) int64 {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Pss:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64) // 0 for a line of another form
			return kib << 10
		}
	}
	return 0
}
