package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/report"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// A duel plays the pairs of a comparison and stores their episodes. Close it at the
// end.
type duel struct {
	*abCmd
	*console
	sides  [2]*side
	tasks  []envs.Task
	ledger *ledger.Ledger
	phase  watchdog.Phase // how far it is, without what came of it
	closes []func() error
}

// kindPair is the kind of the stored episodes. Their step is 1 for side A and 2 for
// side B, their group is the number of the task, and their number that of the pair
// within the task.
const kindPair = "ab"

// shortSum names a comparison.
func shortSum(what string) string { return fmt.Sprintf("%.6x", sha256.Sum256([]byte(what))) }

// Close stops what the duel started, in reverse order.
func (d *duel) Close() error {
	var errs []error
	for i := len(d.closes) - 1; i >= 0; i-- {
		errs = append(errs, d.closes[i]())
	}
	return errors.Join(errs...)
}

// A match is a pair of episodes: one of each side, of the same task with the same
// seed.
type match struct {
	task, number int // number within the task
	played       [2]rollout.Trajectory
}

func (m match) failed() bool { return m.played[0].Failed() || m.played[1].Failed() }

// place is where the episode of a side is stored.
func (m match) place(side int) view.Place {
	return view.Place{Step: int64(side + 1), Group: m.task, Episode: m.number}
}

// playedPairs are the pairs that were counted, and what came of them.
type playedPairs struct {
	matches    []match // without those that failed
	failed     int
	difference report.Difference
	decided    bool
}

// value is what is compared.
func (cmd *abCmd) value(t rollout.Trajectory) float64 {
	switch cmd.Measure {
	case "success":
		if t.Success {
			return 1
		}
		return 0
	case "score":
		return t.Score
	}
	return t.EnvReturn
}

// run plays the pairs, batch by batch, in an order that does not depend on what comes
// of them.
func (d *duel) run(ctx context.Context, reach float64) (out playedPairs, err error) {
	stored, err := d.stored(ctx)
	if err != nil {
		return out, err
	}
	d.begin(len(stored))
	kept, most := len(stored), 2*len(d.tasks)*d.K
	d.phase = watchdog.Phase{Name: watchdog.PhaseSampling, Done: kept, Begun: kept, Total: most, Unit: "episodes",
		Since: time.Now()}
	d.console.phase("", d.phase)
	defer d.endPhase("")
	sequence := report.NewSequential(reach)
	order, size := d.order(), max(1, d.sides[0].player.config.Rollout.Concurrency/2) // both sides play at once
	for len(order) > 0 && !out.decided {
		batch := order[:min(size, len(order))]
		order = order[len(batch):]
		if err := d.play(ctx, batch, stored); err != nil {
			return out, err
		}
		for _, m := range batch {
			if m.failed() {
				out.failed++
				continue
			}
			out.matches = append(out.matches, m)
			if d.Until == "" {
				continue
			}
			if err := sequence.Add(d.value(m.played[1]) - d.value(m.played[0])); err != nil {
				return out, fmt.Errorf("pair %d of task %s: %w\n  hint: --range LOW:HIGH names the range of the %s; "+
					"the pairs are kept", m.number, d.tasks[m.task].ID, err, d.Measure)
			}
			if out.decided = sequence.Decided(); out.decided {
				break // the interval is about the pairs until here
			}
		}
	}
	if len(out.matches) == 0 {
		return out, fmt.Errorf("all %d pairs failed, for example: %s", out.failed, d.why(stored))
	}
	out.difference = d.difference(out, sequence)
	return out, nil
}

// difference is the result: of a sequence, or of a fixed number of pairs.
func (d *duel) difference(out playedPairs, sequence *report.Sequential) report.Difference {
	if d.Until != "" {
		return sequence.Difference()
	}
	pairs := make([]report.Pair, len(out.matches))
	for i, m := range out.matches {
		pairs[i] = report.Pair{Task: m.task, A: d.value(m.played[0]), B: d.value(m.played[1])}
	}
	return report.Paired95(pairs)
}

// order lists the pairs in the order in which they are counted: with --until each is
// of a random task, else all tasks take turns.
func (d *duel) order() []match {
	next := make([]int, len(d.tasks))
	rng := rand.New(rand.NewPCG(sampler.Seed(d.seed(d.sides)), sampler.Seed(uint64(len(d.tasks)), 1)))
	order := make([]match, len(d.tasks)*d.K)
	for i := range order {
		task := i % len(d.tasks)
		if d.Until != "" {
			task = rng.IntN(len(d.tasks))
		}
		order[i] = match{task: task, number: next[task]}
		next[task]++
	}
	return order
}

// stored returns the episodes of an earlier command by their place. Those that failed
// are played again.
func (d *duel) stored(ctx context.Context) (map[view.Place]rollout.Trajectory, error) {
	out := map[view.Place]rollout.Trajectory{}
	for side := range d.sides {
		episodes, err := d.ledger.Untrained(ctx, kindPair, int64(side+1))
		if err != nil {
			return nil, err
		}
		for _, e := range episodes {
			t, err := orchestrator.EpisodeOf(e)
			if err != nil {
				return nil, err
			}
			if !t.Failed() {
				out[view.Place{Step: e.Step, Group: e.Group, Episode: e.Episode}] = t
			}
		}
	}
	return out, nil
}

// why returns the error of an episode that failed.
func (d *duel) why(played map[view.Place]rollout.Trajectory) string {
	for _, t := range played {
		if t.Failed() {
			return t.Err
		}
	}
	return "no episode was played"
}

// play plays the episodes of a batch that are not among played, on both sides at the
// same time, and fills in the batch. Each finished episode is stored at once.
func (d *duel) play(ctx context.Context, batch []match, played map[view.Place]rollout.Trajectory) error {
	specs := make([][]rollout.EpisodeSpec, len(d.sides))
	for side, s := range d.sides {
		limit, err := s.player.promptLimit(ctx, s.config, s.texts, d.tasks...)
		if err != nil {
			return err
		}
		for _, m := range batch {
			if _, ok := played[m.place(side)]; !ok {
				specs[side] = append(specs[side], s.spec(d.tasks[m.task], m, side, d.seed(d.sides)))
				specs[side][len(specs[side])-1].MaxPrompt = limit
			}
		}
	}
	var mu sync.Mutex
	group, playing := errgroup.WithContext(ctx) // an error of the ledger ends both sides
	for side, s := range d.sides {
		concurrency := max(1, s.player.config.Rollout.Concurrency)
		if d.sides[0].player == d.sides[1].player {
			concurrency = max(1, concurrency/2)
		}
		scheduler := rollout.Scheduler{Run: s.player.with(s.texts).Run, Concurrency: concurrency,
			Retries: s.player.config.Rollout.Retries, Log: s.player.log}
		group.Go(func() (err error) {
			scheduler.Sample(playing, specs[side], func(t rollout.Trajectory) {
				if t.Failed() && playing.Err() != nil { // it failed because the command ends
					return
				}
				mu.Lock()
				defer mu.Unlock()
				played[view.Place{Step: t.Step, Group: t.Group, Episode: t.Episode}] = t
				d.phase.Done++
				d.console.phase("", d.phase)
				err = errors.Join(err, d.store(context.WithoutCancel(ctx), t))
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i := range batch {
		for side := range d.sides {
			batch[i].played[side] = played[batch[i].place(side)]
		}
	}
	return nil
}

// spec describes an episode of a side. It is sampled as in an evaluation. Both sides of
// a pair have the same seed.
func (s *side) spec(task envs.Task, m match, number int, seed uint64) rollout.EpisodeSpec {
	e, at := s.config.Eval, m.place(number)
	spec := s.player.spec(task, sampler.Seed(seed, uint64(m.task), uint64(m.number)))
	spec.Step, spec.Group, spec.Episode = at.Step, at.Group, at.Episode
	spec.Policy, spec.Recall = s.policy, s.recall
	spec.Temperature, spec.TopP, spec.TopK = e.Temperature, e.TopP, e.TopK
	r := s.config.Rollout // the player's may be that of the other side
	spec.MaxTurns, spec.MaxTokens, spec.Stop = r.MaxTurns, r.MaxTokens, r.Stop
	spec.Keep = rollout.Keep(s.config.Memory.Keep)
	return spec
}

// store makes an episode durable.
func (d *duel) store(ctx context.Context, t rollout.Trajectory) error {
	record, err := orchestrator.UntrainedEpisode(t, kindPair)
	if err != nil {
		return err
	}
	return d.ledger.AddEpisode(ctx, record)
}
