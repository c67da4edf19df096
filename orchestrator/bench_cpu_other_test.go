//go:build !unix

package orchestrator

import (
	"testing"
	"time"
)

// cpuTime is the time of the clock: the processor time of this process is not read.
func cpuTime(testing.TB) time.Duration { return time.Duration(time.Now().UnixNano()) }
