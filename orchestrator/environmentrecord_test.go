package orchestrator

import (
	"context"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
)

// versioned is an environment that depends on a version.
type versioned struct {
	envs.Family
	version string
}

func (v versioned) Record() any { return map[string]string{"version": v.version} }

// Every evaluation holds the environment's record. A change of the record is an
// event.
func TestScoresCarryTheEnvironmentsRecord(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps = 1 }))
	run := func(version string) {
		t.Helper()
		l, done := w.open()
		defer done()
		l.Family = versioned{l.Family, version}
		if _, err := l.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	run("1.2.3")
	run("1.2.3")
	if len(w.evals) == 0 {
		t.Fatal("no evaluation")
	}
	for _, e := range w.evals {
		if string(e.Environment) != `{"version":"1.2.3"}` {
			t.Errorf("evaluation with %s", e.Environment)
		}
	}
	run("1.3.0")
	l, done := w.open()
	defer done()
	var n int
	err := l.Ledger.DB().QueryRow("SELECT count(*) FROM events WHERE kind = 'environment'").Scan(&n)
	if err != nil || n != 2 {
		t.Errorf("%d records of the environment, %v; want one per version", n, err)
	}
	last, err := l.Ledger.LastEvent(context.Background(), "environment")
	if err != nil || last != `{"version":"1.3.0"}` {
		t.Errorf("last record %s, %v", last, err)
	}
}
