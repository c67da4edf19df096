package trainerbridge

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

// A row that does not fit is named by its place in the call, also if the call was
// split into several requests.
func TestARowThatDoesNotFit(t *testing.T) {
	var mu sync.Mutex
	passes := 0
	s := fakeserver.New(t, fakeserver.Options{Fault: func(c fakeserver.Call) (f fakeserver.Fault) {
		mu.Lock()
		defer mu.Unlock()
		if c.Op != "forward_backward" {
			return f
		}
		if passes++; passes == 2 {
			f = fakeserver.Fault{Category: "user", Message: "out of memory", Details: map[string]any{
				"out_of_memory": map[string]any{"row": 3, "row_tokens": 9000, "possible_tokens": 5000,
					"needed_bytes": 4e9, "free_bytes": 2.5e9},
			}}
		}
		return f
	}})
	c := dialFake(t, s, "")
	rows := make([]Row, maxDatums+5)
	for i := range rows {
		rows[i] = newRow(1, 2, 3)
	}
	_, _, err := c.ForwardBackward(t.Context(), rows, empo2Loss)
	var refused *RequestError
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	want := &OutOfMemory{Row: maxDatums + 3, Tokens: 9000, Possible: 5000, Needed: 4e9, Free: 2.5e9}
	if diff := cmp.Diff(want, refused.OutOfMemory, cmp.AllowUnexported(OutOfMemory{})); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{"row 1027 has 9000 tokens", "4.00 GB", "2.50 GB are free", "about 5000 tokens",
		"\n  hint: ", "rollout.max_turns"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	if Restartable(err) {
		t.Error("a restart cannot help")
	}
}

// pretend lets l start scripts that announce the address of a fake trainer.
func pretend(t *testing.T, l *Local, server *fakeserver.Server) {
	t.Helper()
	at := server.URL[strings.LastIndex(server.URL, ":")+1:]
	cfg := script(t, `echo '{"event":"ready","port":`+at+`,"pid":'$$',"model":"/model","vocab_size":7}'
cat > /dev/null
`)
	cfg.Kills = l.Process.Kills
	l.Process, l.Client = cfg, ClientConfig{Rank: 1, Timeout: 30 * time.Second, AnswerTimeout: 10 * time.Second}
	t.Cleanup(func() { l.Close() })
}

// After a kill for lack of memory the next process has half the memory, then a
// quarter. Another end does not change it.
func TestAKilledTrainerStartsWithHalfTheMemory(t *testing.T) {
	var kills atomic.Int64
	kills.Store(-1)
	l := &Local{Process: ProcessConfig{Kills: func() int { return int(kills.Load()) }}}
	pretend(t, l, fakeserver.New(t, fakeserver.Options{}))
	f := func(signal syscall.Signal, count int, want float64) {
		t.Helper()
		if err := l.Restore(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		kills.Store(int64(count))
		syscall.Kill(l.process.Ready().PID, signal)
		<-l.process.Exited()
		if err := l.Restore(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if got := l.Process.MemoryShare; got != want {
			t.Errorf("signal %v: share %v, want %v", signal, got, want)
		}
	}
	f(syscall.SIGSEGV, -1, 0)
	f(syscall.SIGKILL, -1, 0.5)
	f(syscall.SIGKILL, -1, 0.25)
	kills.Store(5)
	if err := l.Close(); err != nil { // the next process counts from 5
		t.Fatal(err)
	}
	f(syscall.SIGKILL, 5, 0.25)
	f(syscall.SIGKILL, 6, 0.125)
	c, err := new(Process).command(l.Process)
	if err != nil || !strings.Contains(strings.Join(c.Args, " "), " --memory-share 0.125") {
		t.Errorf("%v, %v", c.Args, err)
	}
}

// The real trainer is killed and works with half its micro-batch afterwards.
func TestARealTrainerThatIsKilledHalvesItsMicroBatch(t *testing.T) {
	l := &Local{Process: realTrainer(t), Client: ClientConfig{Rank: 2, Alpha: 4, Timeout: time.Minute}}
	l.Process.Kills = func() int { return -1 }
	t.Cleanup(func() { l.Close() })
	limit := func() int {
		t.Helper()
		if err := l.Restore(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		stats, _, err := l.ForwardBackward(t.Context(), []Row{newRow(1, 10, 11, 12)}, empo2Loss)
		if err != nil || stats.PeakMemory() == 0 || stats.RowTokens() != 3 || stats.TokensPerSecond() <= 0 {
			t.Fatalf("%v, %v", stats, err)
		}
		return stats.MicroBatchTokens()
	}
	whole := limit()
	syscall.Kill(l.process.Ready().PID, syscall.SIGKILL)
	<-l.process.Exited()
	if got := limit(); got != whole/2 {
		t.Errorf("%d tokens in a micro-batch, want %d", got, whole/2)
	}
}
