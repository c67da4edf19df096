package scienceworld

import (
	"testing"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
)

func TestConformance(t *testing.T) {
	t.Run("fake", func(t *testing.T) {
		valid := func(_ envs.Task, step int, _ envs.Observation) string { return fakeValid[step%len(fakeValid)] }
		envstest.Run(t, func(t *testing.T) envs.Family { return fakeFamily(t, Config{}, newFaults(nil)) },
			envstest.WithPolicy(valid))
	})
	t.Run("live", func(t *testing.T) {
		c := live(t)
		c.Tasks, c.Concurrency, c.MaxActions, c.Reads = []string{"find-living-thing"}, 4, 4, ReadLazy
		envstest.Run(t, func(t *testing.T) envs.Family {
			f, err := Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}, envstest.WithTasks(2), envstest.WithSteps(4), envstest.WithTimeout(5*time.Minute))
	})
}
