package main

import (
	"errors"
	"slices"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
)

// Each kind of child process has the run's budget, and each of its restarts is an
// event with its reason.
func TestRestartsOfChildProcesses(t *testing.T) {
	c := config.Default()
	c.Trainer.Restarts = 7
	var events []string
	o := opening{config: c, event: func(kind, detail string) { events = append(events, kind+": "+detail) }}
	o.restarted("environment")("jvm", errors.New("killed"))
	if want := []string{"environment restart: jvm: killed"}; !slices.Equal(events, want) {
		t.Errorf("%q, want %q", events, want)
	}
	opening{}.restarted("server")("url", errors.New("killed")) // nothing records it
	if n := o.budget().Restarts; n != 7 || vllmLaunch(c, "m").Budget.Restarts != 7 {
		t.Errorf("%d restarts, want those of trainer.restarts", n)
	}
}
