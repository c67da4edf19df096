package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivo/uniseg"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/rollout"
)

// screen shows what a terminal shows after it has read a text: the finished lines and
// the one that the cursor is on.
func screen(text string) (lines []string, now string) {
	for _, r := range strings.ReplaceAll(text, "\x1b[K", "\x00") {
		switch r {
		case '\r':
			now = "\r" + strings.TrimPrefix(now, "\r")
		case '\x00': // the cursor is at the beginning, or behind the new text
			if strings.HasPrefix(now, "\r") {
				now = ""
			}
		case '\n':
			lines, now = append(lines, now), ""
		default:
			if strings.HasPrefix(now, "\r") {
				now = ""
			}
			now += string(r)
		}
	}
	return lines, now
}

// pass lets time go by and waits for what it sets off, so that output can be read.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func onTerminal(width int) (out *console, shown *bytes.Buffer) {
	shown = &bytes.Buffer{}
	out = newConsole(shown, shown)
	out.line.terminal, out.line.width = true, func() int { return width }
	return out, shown
}

// On a terminal one line is drawn again in place. It is removed before anything else
// is printed, and at the end.
func TestProgressOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, shown := onTerminal(80)
		p := watchdog.Phase{Name: watchdog.PhaseSampling, Step: 4, Of: 100, Total: 32, Unit: "episodes", Since: time.Now()}
		out.phase("", p)
		pass(4 * time.Second)
		p.Done = 8
		out.phase("", p)
		pass(redrawEvery + time.Millisecond)
		if _, now := screen(shown.String()); now != "step 4/100  sampling 8/32 episodes  1.9/s  13s left" {
			t.Errorf("the line is %q", now)
		}
		out.print("step   3  done")
		log := out.logger(false)
		log.Warn().Msg("careful")
		pass(redrawEvery + time.Millisecond)
		out.note("a note")
		pass(redrawEvery + time.Millisecond)
		lines, now := screen(shown.String())
		if len(lines) != 3 || lines[0] != "step   3  done" || !strings.Contains(lines[1], "careful") || lines[2] != "a note" {
			t.Errorf("the terminal shows %q", lines)
		}
		if !strings.Contains(now, "sampling 8/32") {
			t.Errorf("the line is not drawn again: %q", now)
		}
		out.endPhase("")
		pass(time.Minute)
		out.close()
		if _, now := screen(shown.String()); now != "" {
			t.Errorf("at the end %q is left", now)
		}
	})
}

// The line is never wider than the terminal, and never longer than 80 columns.
func TestProgressFitsTheTerminal(t *testing.T) {
	f := func(width, most int) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			out, shown := onTerminal(width)
			out.phase("a-run-with-a-long-name", watchdog.Phase{Name: watchdog.PhaseSetUp, Since: time.Now(),
				Detail: strings.Repeat("界", 60)})
			pass(redrawEvery + time.Millisecond)
			_, now := screen(shown.String())
			if got := uniseg.StringWidth(now); got > most || got < most-2 {
				t.Errorf("on %d columns the line has %d, want %d: %q", width, got, most, now)
			}
			out.close()
		})
	}
	f(200, 80)
	f(80, 79)
	f(40, 39)
}

// A narrow terminal shows the rate and the time that is left rather than the rest.
func TestProgressOnANarrowTerminal(t *testing.T) {
	f := func(width int, detail, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			out, shown := onTerminal(width)
			defer out.close()
			p := watchdog.Phase{Name: watchdog.PhaseSampling, Step: 4, Of: 100, Done: 8, Total: 32, Unit: "episodes",
				Since: time.Now().Add(-4*time.Second + redrawEvery), Detail: detail}
			out.phase("", p)
			pass(redrawEvery + time.Nanosecond)
			if _, now := screen(shown.String()); now != want {
				t.Errorf("on %d columns the line is %q, want %q", width, now, want)
			}
		})
	}
	f(80, "", "step 4/100  sampling 8/32 episodes  2.0/s  12s left")
	f(40, "", "step 4  sampling 8/32  2.0/s  12s left")
	f(40, "loss 0.25", "step 4  sampling 8/32  2.0/s  12s left")
	f(34, "", "sampling 8/32  2.0/s  12s left")
}

// With --json a phase that tells nothing new is an event every few seconds too.
func TestAQuietPhaseAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		out := newConsole(&stdout, &stderr)
		out.useJSON(true)
		out.phase("", watchdog.Phase{Name: watchdog.PhaseStart, Since: time.Now(), Detail: "trainer and server"})
		pass(12 * time.Second)
		if n := strings.Count(stdout.String(), `"event":"progress"`); n != 3 {
			t.Errorf("%d events in 12 s, want 3:\n%s", n, &stdout)
		}
		out.endPhase("")
		out.close()
		pass(time.Minute)
		if n := strings.Count(stdout.String(), "\n"); n != 3 || stderr.Len() > 0 {
			t.Errorf("%d lines after the end; %s", n, &stderr)
		}
	})
}

// Without a terminal there is a plain line every 30 seconds.
func TestProgressWithoutATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		out := newConsole(&stdout, &stderr)
		out.phase("", watchdog.Phase{Name: watchdog.PhaseSetUp, Since: time.Now(), Detail: "installing torch"})
		pass(65 * time.Second)
		out.phase("", watchdog.Phase{Name: watchdog.PhaseTraining, Step: 1, Of: 2, Since: time.Now(), Usual: 60})
		out.countRuns(1, 4)
		pass(30 * time.Second)
		out.close()
		pass(time.Hour)
		const want = "progress: set-up  installing torch  30s\nprogress: set-up  installing torch  1m00s\n" +
			"progress: 1/4 runs  step 1/2  training  35s left\n"
		if stderr.String() != want || stdout.Len() > 0 {
			t.Errorf("got %q and %q, want %q", stderr.String(), stdout.String(), want)
		}
	})
}

// With --json progress and warnings are events with a time and a schema version: one
// for each new phase, and one every few seconds.
func TestProgressAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		out := newConsole(&stdout, &stderr)
		out.useJSON(true)
		log := out.logger(false)
		begun := time.Now()
		p := watchdog.Phase{Name: watchdog.PhaseSampling, Step: 1, Of: 2, Total: 20, Unit: "episodes", Since: begun}
		for range 20 {
			out.phase("", p)
			pass(time.Second)
			p.Done++
		}
		out.phase("", p)
		log.Warn().Int("step", 1).Msg("8 of 20 replies are cut off")
		log.Info().Msg("not a warning")
		out.json("end", runEndOf(t.Context(), nil))
		out.close()
		var got []string
		for line := range strings.Lines(stdout.String()) {
			var e struct {
				Event  string
				Schema int
				At     time.Time
				Data   struct {
					Done, Total int
					ETA         *float64 `json:"eta_s"`
					Text, State string
					Fields      map[string]any
				}
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Schema != jsonSchema || e.At.Before(begun) {
				t.Fatalf("%v: %s", err, line)
			}
			text := e.Event + " " + e.Data.Text + e.Data.State
			if e.Event == "progress" {
				b, _ := json.Marshal([]any{e.Data.Done, e.Data.Total, e.Data.ETA})
				text += string(b)
			}
			if e.Event == "warning" && e.Data.Fields["step"] != 1.0 {
				t.Errorf("fields %v", e.Data.Fields)
			}
			got = append(got, text)
		}
		want := []string{"progress [0,20,null]", "progress [5,20,15]", "progress [10,20,10]", "progress [15,20,5]",
			"progress [20,20,0]", "warning 8 of 20 replies are cut off", "end done"}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// Every line of a step and of an evaluation fits 80 columns, whatever went wrong.
func TestStepLinesFit(t *testing.T) {
	bad := orchestrator.StepMetrics{Step: 12345, Version: 12345, Groups: 128, NoGradient: 128, KLBase: 12.3456,
		Modes: map[orchestrator.Mode]int{
			orchestrator.OnPolicy: 512, orchestrator.OnPolicyTips: 256, orchestrator.OffPolicy: 256},
		Free: orchestrator.EpisodeStats{N: 512, Return: -83.1234}, Tips: orchestrator.EpisodeStats{N: 508, Return: 1234.5},
		Failed: 4, Stops: map[rollout.StopReason]int{rollout.StopContextFull: 700, rollout.StopFailed: 4},
		Cancelled: 100, Overlap: orchestrator.Overlap{Sampling: new(1.0),
			Staleness: orchestrator.Staleness{Mean: 12.3, Max: 16, Dropped: 128}},
		Replies:   orchestrator.Replies{N: 10000, Cut: 9999, Empty: 1, NoAction: 5000, Tips: 1020, CutTips: 510, NoTips: 510},
		Corrected: true, Mismatch: orchestrator.Mismatch{Tokens: 1, Mean: 1e-3, Max: 1}, LeftOut: 12, Restarts: 2,
		Diverging: []string{"kl"}, Seconds: orchestrator.Seconds{Total: 12345, Sample: 12000, Train: 300, Publish: 45},
		Trainer: orchestrator.TrainerUsage{RowTokens: 1234567, TokensPerSecond: 123456, PeakMemory: 80e9, MFU: 0.47,
			MicroBatches: 1234, MicroBatchTokens: 32768, Checkpointed: 1234, OutOfMemory: 3}}
	e := orchestrator.Evaluation{Kind: "test", Step: 12345, Success: 1, Score: 100, StdErr: 12.3,
		Episodes: 1024, Failed: 12,
		Tips: true, Temperature: 0.125, TrainEpisodes: 1234567, TrainSeconds: 123456}
	for _, text := range []lineText{stepText(bad, true), evaluationText(e, true)} {
		for _, label := range []string{"", "no-off-policy-house123"} {
			for _, line := range text.lines(label) {
				if n := uniseg.StringWidth(line); n > columns {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		}
	}
	good := orchestrator.StepMetrics{Step: 47, Version: 16, Groups: 4, NoGradient: 1, KLBase: 0.0271,
		Free: orchestrator.EpisodeStats{N: 32, Return: 0.8125}, Stops: map[rollout.StopReason]int{rollout.StopTerminated: 32},
		Replies: orchestrator.Replies{N: 84, Cut: 75}, Seconds: orchestrator.Seconds{Total: 3.81}}
	const want = "step  47  free 0.812  tips     –  flat 1/4  kl 0.027  3.8s  v16  cut 89%"
	if got := stepText(good, false).lines(""); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	good.Seconds.Train = 2
	good.Cancelled, good.Overlap.Sampling = 1, new(3.6)
	good.Overlap.Staleness = orchestrator.Staleness{Mean: 0.75, Max: 1, Dropped: 2}
	const ahead = "stale 0.8 max 1  idle server 6% trainer 48%  cut 89%  cancelled 1 episode  2 groups too old"
	if got := strings.Join(stepText(good, false).parts, "  "); !strings.HasSuffix(got, "v16  "+ahead) {
		t.Errorf("got %q, want %q at the end", got, ahead)
	}
}
