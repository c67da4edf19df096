package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// What is removed from old episodes leaves run.db: later episodes fill its pages, and the file
// grows by what stays.
func TestSlimmedEpisodesLeaveTheFile(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	l := open(t, dir)
	defer l.Close()
	const steps, group, keep = 60, 16, 3
	r := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) []byte { // cannot be compressed
		out := make([]byte, n)
		for i := range out {
			out[i] = byte(r.Uint32())
		}
		return out
	}
	var removed [][]byte // the log-probs of old episodes
	half := int64(0)
	for step := int64(1); step <= steps; step++ {
		var all []Estimate
		for i := range group {
			e := Episode{Step: step, Episode: i, Task: "task", Mode: "on_policy", Stop: "terminated",
				Trajectory: json.RawMessage(fmt.Sprintf(`{"state":"%x"}`, noise(100))), Tokens: noise(300), Logprobs: noise(700)}
			if step <= steps-keep {
				removed = append(removed, e.Logprobs)
			}
			all = append(all, Estimate{Episode: i, Logprobs: make([]float32, 100)})
			if err := l.AddEpisode(ctx, e); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Commit(ctx, Step{Step: step, Metrics: json.RawMessage(`{}`), Estimates: all}, nil, nil); err != nil {
			t.Fatal(err)
		}
		err := l.Slim(ctx, step-keep, 9, func(e Episode) (Episode, error) {
			e.Tokens, e.Logprobs = nil, nil
			return e, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if step == steps/2 {
			half = fileBytes(t, l)
		}
	}
	// 100 random bytes in hexadecimal and 220 bytes of other columns stay of an episode, and 120
	// of its estimate.
	grown, stays := fileBytes(t, l)-half, int64(steps/2*group*(100+220+120))
	if grown > stays*3/2 {
		t.Errorf("the file has grown by %d bytes, %d stay", grown, stays)
	}
	text, err := os.ReadFile(filepath.Join(dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	for _, logprobs := range removed {
		if bytes.Contains(text, logprobs[:64]) {
			t.Fatal("the log-probs of an old episode are in the file")
		}
	}
}

// fileBytes is the size of run.db, with what its log holds.
func fileBytes(t *testing.T, l *Ledger) int64 {
	t.Helper()
	if _, err := l.DB().Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(l.Dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
