package process

import (
	"os"
	"testing"
)

func TestMemory(t *testing.T) {
	const rollup = "00400000-7fff [rollup]\nRss:   900 kB\nPss:   640 kB\nPss_Anon:  10 kB\n"
	if got := proportional(rollup); got != 640<<10 {
		t.Errorf("%d", got)
	}
	if got := proportional("Rss: 1 kB\n"); got != 0 {
		t.Errorf("%d without a Pss", got)
	}
	p := start(t, script(t.TempDir(), "echo ready; exec sleep 1000"))
	if _, err := os.Stat("/proc/self/smaps_rollup"); err == nil && p.Memory() <= 0 {
		t.Error("a process without memory")
	}
	p.Kill()
	<-p.Done()
	if got := p.Memory(); got != 0 {
		t.Errorf("%d bytes after the end", got)
	}
}
