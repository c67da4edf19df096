package scienceworld

import (
	"syscall"
	"testing"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/google/go-cmp/cmp"
)

// survivalScript has actions that change the world.
var survivalScript = []string{"teleport to kitchen", "open cupboard", "wait1", "teleport to greenhouse", "wait1"}

// A JVM that is killed or stopped during an episode is replaced. The episode gives the
// same steps as one without a failure. Episodes in other JVMs are not affected.
func TestJVMFailureDuringAnEpisode(t *testing.T) {
	c := live(t)
	c.Tasks, c.Concurrency, c.PerJVM = []string{"find-plant"}, 2, 1
	c.Deadlines.Step = 15 * time.Second
	f := openLive(t, c)
	want, err := play(t, f, "find-plant/variation-7", survivalScript...)
	if err != nil {
		t.Fatal(err)
	}
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			got := playUnder(t, f, signal)
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// playUnder plays the script and sends a signal to its JVM in the middle.
func playUnder(t *testing.T, f *Family, signal syscall.Signal) (steps []envs.Step) {
	t.Helper()
	inst, err := f.pool.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := &episode{family: f, variant: variant{"find-plant", 7}, inst: inst}
	defer e.Close()
	neighbour, err := f.pool.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.pool.release(neighbour)
	if _, err := e.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	victim := inst.on.host.(*jvmHost)
	for i, action := range survivalScript {
		if i == 3 {
			if err := syscall.Kill(victim.PID(), signal); err != nil {
				t.Fatal(err)
			}
		}
		s, err := e.Step(t.Context(), action)
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, s)
	}
	if e.inst == inst || !inst.on.dead || exists(victim.scratch) {
		t.Error("the victim was not replaced")
	}
	if neighbour.on.dead || neighbour.broken() {
		t.Error("the neighbour was taken down too")
	}
	return steps
}
