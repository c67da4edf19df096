package process

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A process that was killed from outside was killed for lack of memory, unless
// the kernel's count says that it was not.
func TestKillsForLackOfMemory(t *testing.T) {
	f := func(want bool, body string, counts ...int) {
		t.Helper()
		c := script(t.TempDir(), body)
		c.Kills = func() int {
			n := counts[0]
			counts = counts[1:]
			return n
		}
		_, err := Start(t.Context(), c)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.OutOfMemory != want || (exit.Hint != "") != want {
			t.Errorf("%v, want out of memory: %t", err, want)
		}
	}
	f(true, "kill -KILL $$", 3, 4)
	f(false, "kill -KILL $$", 3, 3)
	f(true, "kill -KILL $$", -1, -1)
	f(true, "kill -KILL $$", 3, -1)
	f(false, "exit 9", 3)
}

func TestKernelKills(t *testing.T) {
	f := func(want int, group, events, machine string) {
		t.Helper()
		root := t.TempDir()
		for path, text := range map[string]string{
			"proc/self/cgroup": group, "sys/fs/cgroup/user/a/memory.events": events, "proc/vmstat": machine,
		} {
			path = filepath.Join(root, path)
			err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := kernelKills(root); got != want {
			t.Errorf("%q and %q: %d, want %d", group, events, got, want)
		}
	}
	f(7, "0::/user/a\n", "low 0\noom 9\noom_kill 7\noom_group_kill 0\n", "oom_kill 3\n")
	f(-1, "0::/user/a\n", "oom_kill x\n", "")
	f(-1, "0::/user/a\n", "low 0\n", "nr_free_pages 5\n")
	f(3, "0::/\n", "oom_kill 7\n", "nr_free_pages 5\noom_kill 3\n") // the root group has no such file
	f(3, "4:memory:/user/a\n", "oom_kill 7\n", "oom_kill 3\n")
	if got := kernelKills(t.TempDir()); got != -1 {
		t.Errorf("without /proc: %d", got)
	}
}
