package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// sleepRecorder records sleep and wake-up among the trainer's calls.
type sleepRecorder struct {
	trainer *fakeTrainer
	fail    error // of Sleep
}

func (s sleepRecorder) Sleep(context.Context) error {
	return errors.Join(s.trainer.call("sleep"), s.fail)
}
func (s sleepRecorder) Wake(context.Context) error { return s.trainer.call("wake") }

func TestServerSleepsWhileTheTrainerWorks(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps = 1 }))
	l, done := w.open()
	defer done()
	l.Sleeper = sleepRecorder{trainer: w.trainer}
	if _, err := l.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	asleep := false
	for _, c := range w.trainer.calls {
		switch c {
		case "sleep", "wake":
			asleep = c == "sleep"
		case "forward_backward", "optim_step", "save 1", "export 1":
			if !asleep {
				t.Errorf("%s while the server was awake: %v", c, w.trainer.calls)
			}
		}
	}
	if asleep || !slices.Contains(w.trainer.calls, "sleep") {
		t.Errorf("calls %v", w.trainer.calls)
	}
}

// A trainer that fails for good leaves the server awake.
func TestServerIsWokenAfterAFailure(t *testing.T) {
	w := newWorld(t, small())
	l, done := w.open()
	defer done()
	l.Sleeper = sleepRecorder{trainer: w.trainer}
	broken := errors.New("a request that is refused")
	w.trainer.fail = func(call string) error {
		if call == "optim_step" {
			return broken
		}
		return nil
	}
	_, err := l.Run(context.Background())
	if last := w.trainer.calls[len(w.trainer.calls)-1]; !errors.Is(err, broken) || last != "wake" {
		t.Errorf("%v after %v", err, w.trainer.calls)
	}
}

// Out of memory within a pass is an event and a warning that names the key. So
// is a trainer that the system killed.
func TestOutOfMemoryIsRecorded(t *testing.T) {
	led := newLedger(t)
	var log bytes.Buffer
	stage := trainStage{ledger: led, log: zerolog.New(&log)}
	ctx := context.Background()
	f := func(err error, events int, lines ...string) {
		t.Helper()
		var n int
		query := led.DB().QueryRow("SELECT count(*) FROM events WHERE kind = 'out of memory' AND step = 4")
		if err = errors.Join(err, query.Scan(&n)); err != nil || n != events {
			t.Errorf("%d events, want %d, %v", n, events, err)
		}
		for _, line := range lines {
			if !strings.Contains(log.String(), line) {
				t.Errorf("%q lacks %q", log.String(), line)
			}
		}
	}
	f(stage.reportShortage(ctx, 4, trainerbridge.Stats{"row_tokens:sum": 9000}), 0)
	f(stage.reportShortage(ctx, 4, trainerbridge.Stats{
		"row_tokens:sum": 9000, "oom_retries:sum": 2, "micro_batch_tokens:min": 1024, "peak_memory_bytes:max": 3.2e9,
	}), 1, "2 times", "9000 tokens", "3.20 GB", "trainer.micro_batch_tokens = 1024")
	killed := fmt.Errorf("forward_backward: %w", &trainerbridge.ExitError{State: "signal: killed", OutOfMemory: true})
	f(reportKill(ctx, led, stage.log, 4, killed), 2, "half the memory", "trainer.micro_batch_tokens")
	f(reportKill(ctx, led, stage.log, 4, &trainerbridge.ExitError{State: "signal: killed"}), 2)
	if share, err := MemoryShare(ctx, led); share != 0.5 || err != nil { // a continued run begins with it
		t.Errorf("memory for a micro-batch after a kill: %g of the usual, %v", share, err)
	}
	detail, err := led.LastEvent(ctx, eventOutOfMemory)
	if err != nil || !strings.Contains(detail, "killed the trainer") {
		t.Errorf("%q, %v", detail, err)
	}
}

// A step's rates are those of all its passes, not means of their rates.
func TestStepMetricsHaveTheTrainersUsage(t *testing.T) {
	passes := []trainerbridge.Stats{
		{"row_tokens:sum": 100, "seconds:sum": 1, "mfu:mean": 0.1, "peak_memory_bytes:max": 5},
		{"row_tokens:sum": 900, "seconds:sum": 3, "mfu:mean": 0.5, "peak_memory_bytes:max": 7, "oom_retries:sum": 1},
	}
	got := trainerUsage(trainerbridge.MergeStats(passes, nil))
	want := TrainerUsage{RowTokens: 1000, Seconds: 4, TokensPerSecond: 250, PeakMemory: 7, MFU: 0.4, OutOfMemory: 1}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestSurrogatesAreTheTrainers(t *testing.T) {
	source, err := os.ReadFile("../trainer_bridge/trainer/empo2_trainer/losses.py")
	if err != nil {
		t.Fatal(err)
	}
	line := `SURROGATES = ("` + strings.Join(surrogates, `", "`) + `")`
	if !strings.Contains(string(source), "\n"+line+"\n") {
		t.Errorf("losses.py has no line %s", line)
	}
	c := demo().Loss
	for i, name := range surrogates {
		c.Surrogate = name
		if got := loss(c).Config["surrogate"]; got != float64(i) {
			t.Errorf("%s is sent as %g, want %d", c.Surrogate, got, i)
		}
	}
}
