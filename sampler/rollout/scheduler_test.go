package rollout_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

func specs(n int) []rollout.EpisodeSpec {
	out := make([]rollout.EpisodeSpec, n)
	for i := range out {
		out[i] = spec()
		out[i].Episode, out[i].Seed = i, uint64(i)
	}
	return out
}

// succeeded is the trajectory of an episode that ended normally.
func succeeded(s rollout.EpisodeSpec) rollout.Trajectory {
	return rollout.Trajectory{Episode: s.Episode, Seed: s.Seed, Stop: rollout.StopTerminated}
}

func failed(s rollout.EpisodeSpec, why string) rollout.Trajectory {
	return rollout.Trajectory{Episode: s.Episode, Seed: s.Seed, Stop: rollout.StopFailed, Err: why}
}

// Each episode is emitted exactly once, and the concurrency limit holds, for all failures and cancellations.
func TestEveryEpisodeIsEmittedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 30).Draw(t, "episodes")
		limit := rapid.IntRange(0, 8).Draw(t, "limit")
		retries := rapid.IntRange(0, 3).Draw(t, "retries")
		failures := rapid.SliceOfN(rapid.IntRange(0, 5), n, n).Draw(t, "failures")
		cancelAfter := rapid.IntRange(0, 60).Draw(t, "cancel after")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var running, started atomic.Int64
		attempts := make([]atomic.Int64, n)
		s := rollout.Scheduler{Concurrency: limit, Retries: retries}
		s.Run = func(ctx context.Context, e rollout.EpisodeSpec) rollout.Trajectory {
			if now := running.Add(1); limit > 0 && now > int64(limit) {
				t.Errorf("%d episodes at the same time, limit %d", now, limit)
			}
			defer running.Add(-1)
			if started.Add(1) == int64(cancelAfter) {
				cancel()
			}
			if ctx.Err() != nil || attempts[e.Episode].Add(1) <= int64(failures[e.Episode]) {
				return failed(e, "broken")
			}
			return succeeded(e)
		}
		var got []int
		s.Sample(ctx, specs(n), func(tr rollout.Trajectory) {
			got = append(got, tr.Episode)
			wantFailed := failures[tr.Episode] > retries
			if ctx.Err() == nil && (tr.Failed() != wantFailed || tr.Attempts != min(failures[tr.Episode], retries)+1) {
				t.Errorf("episode %d: stop %s after %d attempts", tr.Episode, tr.Stop, tr.Attempts)
			}
		})
		slices.Sort(got)
		want := make([]int, n)
		for i := range want {
			want[i] = i
		}
		if !slices.Equal(want, got) {
			t.Errorf("emitted %v", got)
		}
	})
}

func TestSlowEpisodesDoNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rollout.Scheduler{Concurrency: 2}
		s.Run = func(_ context.Context, e rollout.EpisodeSpec) rollout.Trajectory {
			if e.Episode == 0 {
				time.Sleep(time.Hour)
			} else {
				time.Sleep(time.Second)
			}
			return succeeded(e)
		}
		start := time.Now()
		at := map[int]time.Duration{}
		s.Sample(t.Context(), specs(4), func(tr rollout.Trajectory) { at[tr.Episode] = time.Since(start) })
		want := map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 3 * time.Second, 0: time.Hour}
		if diff := cmp.Diff(want, at); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSlowEmitDoesNotDelayEpisodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var last time.Duration
		s := rollout.Scheduler{Concurrency: 1}
		s.Run = func(_ context.Context, e rollout.EpisodeSpec) rollout.Trajectory {
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			last = time.Since(start)
			return succeeded(e)
		}
		s.Sample(t.Context(), specs(5), func(rollout.Trajectory) { time.Sleep(time.Minute) })
		if last != 5*time.Second {
			t.Errorf("the last episode ended after %v", last)
		}
	})
}

func TestCancelledEpisodesAreEmittedAsFailed(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := rollout.Scheduler{Concurrency: 1, Retries: 3}
	s.Run = func(_ context.Context, e rollout.EpisodeSpec) rollout.Trajectory {
		cancel(errors.New("the run is stopped"))
		return failed(e, "cut off")
	}
	var got []rollout.Trajectory
	s.Sample(ctx, specs(3), func(tr rollout.Trajectory) { got = append(got, tr) })
	if len(got) != 3 || got[0].Attempts != 1 || got[0].Err != "cut off" {
		t.Fatalf("%+v", got)
	}
	for _, tr := range got[1:] {
		if !tr.Failed() || tr.Attempts != 0 || tr.Err != "not started: the run is stopped" || tr.Task.ID == "" {
			t.Errorf("%+v", tr)
		}
	}
}

// A retried episode equals the same episode without a failure.
func TestRetryRepeatsTheEpisode(t *testing.T) {
	d, b := newDriver(t, corridors(4), adversarialScript)
	s := spec()
	want := d.Run(t.Context(), s)
	var calls atomic.Int64
	b.BeforeSample = func(context.Context, sampler.Policy, sampler.Request) error {
		if calls.Add(1) == 3 {
			return errors.New("connection reset")
		}
		return nil
	}
	scheduler := rollout.Scheduler{Run: d.Run, Retries: 1}
	scheduler.Sample(t.Context(), []rollout.EpisodeSpec{s}, func(got rollout.Trajectory) {
		if got.Attempts != 2 || got.Failed() {
			t.Errorf("attempts %d, stop %s, err %s", got.Attempts, got.Stop, got.Err)
		}
		if diff := cmp.Diff(want.RowsWithTips, got.RowsWithTips); diff != "" {
			t.Error(diff)
		}
	})
}

// The script follows tips. Most episodes with the tip succeed, and few episodes without it do.
func TestTipsHelpAPolicyThatFollowsThem(t *testing.T) {
	plain := samplertest.NewTokenizer()
	followsTips := func(_ int, prompt []int32) []samplertest.Choice {
		text := plain.Decode(prompt)
		if strings.Contains(text, "iron pull jade") {
			return []samplertest.Choice{{Text: "pull jade", Weight: 97}, {Text: "pull bone", Weight: 3}}
		}
		return []samplertest.Choice{{Text: "pull jade", Weight: 1}, {Text: "pull bone", Weight: 1}}
	}
	d, _ := newDriver(t, lockedCorridors(4), followsTips)
	all := specs(64)
	for i := range all {
		if i%2 == 0 {
			all[i].Recall = recalls(prompt.Tip{ID: 1, Text: "At iron pull jade."})
		}
	}
	out := map[bool]int{}
	s := rollout.Scheduler{Run: d.Run, Concurrency: 16}
	s.Sample(t.Context(), all, func(tr rollout.Trajectory) {
		if tr.Failed() {
			t.Error(tr.Err)
		}
		if tr.Success {
			out[tr.Memory]++
		}
	})
	if out[true] < 24 || out[false] > 8 {
		t.Errorf("%d of 32 succeeded with the tip, %d of 32 without", out[true], out[false])
	}
}

// An episode that its step does not wait for is not run again. One that has failed by itself before is not called
// cancelled.
func TestCancelledEpisodesAreNotRepeated(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	runs := map[int]int{}
	var got []rollout.Trajectory
	s := rollout.Scheduler{Concurrency: 1, Retries: 2}
	s.Run = func(ctx context.Context, e rollout.EpisodeSpec) rollout.Trajectory {
		runs[e.Episode]++
		switch e.Episode {
		case 0:
			out := failed(e, rollout.ErrNotAwaited.Error())
			out.Stop = rollout.StopCancelled
			return out
		case 1:
			cancel(rollout.ErrNotAwaited)
			return failed(e, "broken")
		}
		return succeeded(e)
	}
	s.Sample(ctx, specs(3), func(t rollout.Trajectory) { got = append(got, t) })
	stops := make([]rollout.StopReason, 3)
	for _, e := range got {
		stops[e.Episode] = e.Stop
	}
	want := []rollout.StopReason{rollout.StopCancelled, rollout.StopFailed, rollout.StopCancelled}
	if diff := cmp.Diff(want, stops); diff != "" || runs[0] != 1 || runs[1] != 1 {
		t.Errorf("runs %v\n%s", runs, diff)
	}
}
