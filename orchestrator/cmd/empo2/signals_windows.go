package main

import (
	"io"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// dumpOnSignal does nothing, because Windows has no SIGUSR1.
func dumpOnSignal(io.Writer, *watchdog.Watch) (stop func()) { return func() {} }
