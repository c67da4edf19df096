package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator/advantage"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// Calibration is what [Loop.Calibrate] measured. Times are in seconds.
type Calibration struct {
	Episodes      int // that made a turn
	Complete      int // of them, those that ended
	Turns         int // that were played
	ExpectedTurns float64
	SampleSeconds float64 // of all turns together, reflection included
	TrainedTokens float64 // mean tokens of an episode's rows, as they are trained
	SampledTokens float64 // the same, as they were sampled
	LongestRow    int     // tokens
	EpisodeBytes  float64 // mean size of an episode in run.db

	Usage         TrainerUsage // of the passes; zero if nothing is trained
	TrainedRow    int          // tokens of the longest row of those passes
	ScoreTokens   int
	ScoreSeconds  float64
	Optim         float64 // seconds of one optimizer step
	Export        float64 // seconds of checkpoint and adapter
	Publish       float64
	ServerMemory  int64 // bytes; 0: unknown
	AdapterFolder string
}

// trainedInCalibration is about how many tokens a calibration trains.
const trainedInCalibration = 4096

// Calibrate plays some episodes of the first two steps of a run, trains on some
// of them and publishes the result, and returns what the second step needed. The
// first one warms everything up and writes the first tips. limit bounds the
// sampling of each step. The run must be a new one, which is thrown away
// afterwards.
func (l *Loop) Calibrate(ctx context.Context, limit time.Duration) (Calibration, error) {
	timed := &timedTrainer{Trainer: l.Trainer}
	if l.Trainer != nil {
		l.Trainer = timed
	}
	s, err := l.open(ctx)
	if err != nil {
		return Calibration{}, err
	}
	var c Calibration
	for range 2 {
		timed.reset()
		if c, err = s.calibrateStep(ctx, limit, timed); err != nil {
			return Calibration{}, err
		}
	}
	return c, nil
}

// calibrateStep plays, trains and commits one step.
func (s *session) calibrateStep(ctx context.Context, limit time.Duration, timed *timedTrainer) (Calibration, error) {
	begun, before := time.Now(), s.state
	s.loop.begin(ctx, before.step+1, watchdog.PhaseSampling, 0, "")
	planned, err := s.plan.run(ctx, before)
	if err != nil {
		return Calibration{}, err
	}
	sampled, err := s.playFor(ctx, planned, limit)
	if err != nil {
		return Calibration{}, err
	}
	s.loop.begin(ctx, before.step+1, watchdog.PhaseTraining, 0, "")
	c, batch := s.describeSample(sampled)
	if c.Turns == 0 {
		return c, errors.New("no episode made a turn in the time of the calibration" +
			"\n  hint: give it more time, or plan without a calibration")
	}
	var update *Update
	if s.loop.Trainer != nil {
		if update, _, err = s.train.run(ctx, batch, before); err != nil {
			return c, err
		}
		if update == nil {
			return c, errors.New("the trainer refused all rows of the calibration")
		}
		c.describeTraining(*update, batch, timed)
	}
	published, err := s.publish.run(ctx, update, before.policy)
	if err != nil {
		return c, err
	}
	c.Publish, c.ServerMemory = published.Seconds, published.ServerMemory
	for g := range sampled.Groups { // an unfinished episode teaches the memory nothing
		for e := range sampled.Groups[g] {
			if t := &sampled.Groups[g][e]; t.Stop == "" {
				t.Stop = rollout.StopFailed
			}
		}
	}
	committed, err := s.commit.run(ctx, finishedStep{
		begun: begun, before: before,
		planned: planned, sampled: sampled, batch: batch, update: update, published: published,
	})
	s.state = committed.state
	return c, err
}

// playFor samples the episodes of a plan until all have ended or the time is
// over. Episodes that are not finished then are kept as failed ones with their
// turns.
func (s *session) playFor(ctx context.Context, p Planned, limit time.Duration) (Sampled, error) {
	groups := make([][]rollout.Trajectory, len(p.Groups))
	for g := range groups {
		groups[g] = make([]rollout.Trajectory, len(p.Groups[g].Episodes))
	}
	specs, err := s.sample.missing(ctx, p, s.state.policy, groups)
	if err != nil {
		return Sampled{}, err
	}
	s.loop.progress().count(0, len(specs), "episodes")
	begun := time.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, limit, errors.New("the time of the calibration is over"))
	defer cancel()
	reflect := s.reflect.with(p, s.state.policy)
	var mu sync.Mutex
	after := errgroup.Group{}
	s.sample.runner.run(bounded, p.prompt, specs, func(t rollout.Trajectory) {
		s.loop.progress().add(watchdog.PhaseSampling, 1)
		after.Go(func() error {
			if err := s.sample.finish(bounded, p.Plan, &t, reflect); err != nil && bounded.Err() == nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			groups[t.Group][t.Episode] = t
			return nil
		})
	})
	if err = after.Wait(); ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return Sampled{Plan: p.Plan, Groups: groups, Seconds: time.Since(begun).Seconds()}, err
}

// describeSample counts what was played, and chooses episodes to train on.
func (s *session) describeSample(in Sampled) (Calibration, Batch) {
	c := Calibration{SampleSeconds: in.Seconds}
	var all []trainedEpisode
	for g, group := range in.Groups {
		for e, t := range group {
			if len(t.Turns) == 0 {
				continue
			}
			mode := in.Plan.Groups[g].Episodes[e].Mode
			one := advantage.Episode{Tips: mode.Tips(), OffPolicy: mode == OffPolicy}
			episode := s.estimate.episode(t, one)
			episode.advantage = float64(1 - 2*(e%2))
			c.add(t, episode, s.sample.rollout.MaxTurns)
			if episode.tokens > 0 {
				all = append(all, episode)
			}
		}
	}
	n := float64(max(1, c.Episodes))
	c.ExpectedTurns, c.TrainedTokens, c.SampledTokens = c.ExpectedTurns/n, c.TrainedTokens/n, c.SampledTokens/n
	c.EpisodeBytes /= n
	// Episodes of all lengths, as far as the time of a calibration allows.
	slices.SortStableFunc(all, func(a, b trainedEpisode) int { return cmp.Compare(a.size(), b.size()) })
	batch, tokens := Batch{Step: in.Plan.Step, Groups: len(in.Groups)}, 0
	for i, e := range all {
		if i == 0 || tokens+e.size() <= trainedInCalibration {
			batch.Episodes, tokens = append(batch.Episodes, e), tokens+e.size()
		}
	}
	return c, batch
}

// add counts an episode. One that is not finished counts with its turns so far,
// stretched to the limit of turns.
func (c *Calibration) add(t rollout.Trajectory, e trainedEpisode, maxTurns int) {
	played := float64(len(t.Turns))
	expected := played
	if t.Failed() {
		expected = max(played, float64(maxTurns))
	} else {
		c.Complete++
	}
	c.Episodes++
	c.Turns += len(t.Turns)
	c.ExpectedTurns += expected
	c.TrainedTokens += float64(e.size()) * expected / played
	for _, r := range t.Rows(true) {
		c.SampledTokens += float64(len(r.Tokens)) * expected / played
		c.LongestRow = max(c.LongestRow, int(float64(len(r.Tokens))*expected/played))
	}
	c.EpisodeBytes += float64(storedBytes(t)+4*e.tokens) * expected / played
}

// storedBytes is the size of an episode in run.db, without the trainer's log-probs;
// 0 for values that cannot be stored.
func storedBytes(t rollout.Trajectory) int {
	record, err := storedEpisode(t, OnPolicy)
	if err != nil {
		return 0
	}
	size, err := record.Size()
	if err != nil {
		return 0
	}
	return size
}

// size counts the tokens of all rows that are sent for an episode.
func (e trainedEpisode) size() int {
	n := 0
	for _, rows := range [][]rollout.Row{e.rows, e.klRows} {
		for _, r := range rows {
			n += len(r.Tokens)
		}
	}
	return n
}

// describeTraining takes over what the passes cost.
func (c *Calibration) describeTraining(u Update, batch Batch, timed *timedTrainer) {
	c.Usage, c.AdapterFolder = trainerUsage(u.Stats), u.Export.Dir
	if c.Usage.TokensPerSecond == 0 { // a trainer that does not report it
		c.Usage.TokensPerSecond = float64(timed.passTokens) / timed.pass.Seconds()
	}
	for _, e := range batch.Episodes {
		for _, r := range slices.Concat(e.rows, e.klRows) {
			c.TrainedRow = max(c.TrainedRow, len(r.Tokens))
		}
	}
	c.ScoreTokens, c.ScoreSeconds = timed.scoreTokens, timed.score.Seconds()
	c.Optim, c.Export = timed.optim.Seconds()/float64(max(1, timed.steps)), timed.export.Seconds()
}

// A timedTrainer measures the calls of a trainer.
type timedTrainer struct {
	Trainer
	pass, score, optim, export     time.Duration
	passTokens, scoreTokens, steps int
}

func (t *timedTrainer) reset() { *t = timedTrainer{Trainer: t.Trainer} }

func (t *timedTrainer) ForwardBackward(ctx context.Context, rows []trainerbridge.Row, loss trainerbridge.Loss) (
	trainerbridge.Stats, [][]float32, error) {
	defer since(time.Now(), &t.pass)
	t.passTokens += tokensOf(rows)
	return t.Trainer.ForwardBackward(ctx, rows, loss)
}

func (t *timedTrainer) Forward(ctx context.Context, rows []trainerbridge.Row) ([][]float32, error) {
	defer since(time.Now(), &t.score)
	t.scoreTokens += tokensOf(rows)
	return t.Trainer.Forward(ctx, rows)
}

func (t *timedTrainer) OptimStep(ctx context.Context, adam trainerbridge.Adam) (trainerbridge.Stats, error) {
	defer since(time.Now(), &t.optim)
	t.steps++
	return t.Trainer.OptimStep(ctx, adam)
}

func (t *timedTrainer) Save(ctx context.Context, version int) error {
	defer since(time.Now(), &t.export)
	return t.Trainer.Save(ctx, version)
}

func (t *timedTrainer) Export(ctx context.Context, version int) (trainerbridge.Exported, error) {
	defer since(time.Now(), &t.export)
	return t.Trainer.Export(ctx, version)
}

func since(begun time.Time, total *time.Duration) { *total += time.Since(begun) }

func tokensOf(rows []trainerbridge.Row) int {
	n := 0
	for _, r := range rows {
		n += len(r.Tokens)
	}
	return n
}
