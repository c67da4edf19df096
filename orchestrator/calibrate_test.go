package orchestrator

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
)

// A calibration plays, trains and publishes two small steps and describes the
// second.
func TestCalibration(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Algorithm.Groups, c.Algorithm.GroupSize = 2, 4 }))
	l, done := w.open()
	defer done()
	l.ServerMemory = func() int64 { return 77 }
	c, err := l.Calibrate(context.Background(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if c.Episodes != 8 || c.Complete != 8 || c.Turns < 8 || c.ExpectedTurns != float64(c.Turns)/8 {
		t.Errorf("%+v", c)
	}
	if c.LongestRow == 0 || c.SampledTokens > float64(c.LongestRow) || c.TrainedTokens <= 0 || c.EpisodeBytes <= 0 {
		t.Errorf("%+v", c)
	}
	if c.TrainedRow == 0 || c.ScoreTokens == 0 || c.Usage.TokensPerSecond <= 0 || c.ServerMemory != 77 ||
		!strings.HasSuffix(c.AdapterFolder, "v000002") {
		t.Errorf("%+v", c)
	}
	if served := w.backend.Served(); !slices.Equal(served, []int{0, 2}) || w.trainer.count("export") != 2 {
		t.Errorf("serves %v, calls %v", served, w.trainer.calls)
	}
}

// Episodes that are not finished in time count with their turns, stretched to the
// limit of turns.
func TestACalibrationThatTakesTooLong(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) {
		c.Algorithm.Groups, c.Algorithm.GroupSize, c.Algorithm.Name = 1, 4, "grpo"
		c.Rollout.MaxTurns, c.Rollout.Concurrency = 12, 4
	}))
	var mu sync.Mutex
	turns := map[string]int{}
	l, done := w.open()
	defer done()
	w.backend.BeforeSample = func(ctx context.Context, _ sampler.Policy, r sampler.Request) error {
		mu.Lock()
		turns[r.Session]++
		n := turns[r.Session]
		mu.Unlock()
		if n == 2 { // the second turn never ends
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	}
	c, err := l.Calibrate(context.Background(), 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if cut := c.Episodes - c.Complete; c.Episodes != 4 || c.Turns != 4 || c.ExpectedTurns*4 != float64(12*cut+c.Complete) {
		t.Errorf("%+v", c)
	}
}
