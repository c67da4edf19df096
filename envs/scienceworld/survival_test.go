package scienceworld

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/watchdog"
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

// A JVM that is stopped while it starts has a name. It is killed at the deadline of its
// start, and leaves nothing behind.
func TestAStoppedJVMWhileItStarts(t *testing.T) {
	f := openLive(t, live(t))
	if _, err := os.Stat("/proc/self/stat"); err != nil || !f.java.hotspot {
		t.Skip("*** NOT RUN: needs /proc and a HotSpot JVM ***")
	}
	t.Setenv("TMPDIR", t.TempDir())
	paused := filepath.Join(t.TempDir(), "paused") // the JVM makes it, and waits until it is removed
	flags := append(slices.Clone(f.flags), "-XX:+UnlockDiagnosticVMOptions", "-XX:+PauseAtStartup",
		"-XX:PauseAtStartupFile="+paused)
	l := launcher{java: f.java, jar: f.jar, flags: flags, timeout: 5 * time.Second, log: f.config.Log}
	before, watch, failed := children(t), watchdog.New(), make(chan error, 1)
	go func() { _, err := l.launch(watchdog.With(t.Context(), watch)); failed <- err }()
	for !exists(paused) && len(failed) == 0 {
		time.Sleep(time.Millisecond)
	}
	var stopped []string
	for _, pid := range children(t) {
		if n, err := strconv.Atoi(pid); err == nil && !slices.Contains(before, pid) {
			if err := syscall.Kill(n, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			stopped = append(stopped, pid)
		}
	}
	for len(watch.Status().Stopped) == 0 && len(failed) == 0 {
		time.Sleep(time.Millisecond)
	}
	named := watch.Status()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), f.jar.path) || !strings.Contains(err.Error(), "5s") {
		t.Errorf("the start ends with %v", err)
	}
	if len(stopped) != 1 || len(named.Stopped) != 1 || named.Stopped[0].Name != "jvm" ||
		!strings.Contains(strings.Join(named.Lines(), "\n"), "jvm (process "+stopped[0]+") is stopped") {
		t.Errorf("stopped %v, named %+v", stopped, named)
	}
	if left := children(t); !slices.Equal(left, before) {
		t.Errorf("JVMs %v, %v before", left, before)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
