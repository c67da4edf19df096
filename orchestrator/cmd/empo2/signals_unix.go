//go:build unix

package main

import (
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// dumpOnSignal writes a dump for every SIGUSR1, until stop is called.
func dumpOnSignal(w io.Writer, watch *watchdog.Watch) (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		defer close(done)
		for range signals {
			dump(w, watch)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}
