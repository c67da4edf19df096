package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// eventLeftOut is the kind of the events of rows that were not trained.
const eventLeftOut = "left out"

// A rowKey names a row of a step's episodes.
type rowKey struct {
	group, episode int
	row            int  // among the episode's trained rows; wholeEpisode: all of them
	kl             bool // among the rows that only carry the KL
}

// wholeEpisode is the row of a key that names all rows of an episode.
const wholeEpisode = -1

func (k rowKey) String() string {
	switch {
	case k.row == wholeEpisode:
		return fmt.Sprintf("episode %d/%d", k.group, k.episode)
	case k.kl:
		return fmt.Sprintf("KL row %d of episode %d/%d", k.row, k.group, k.episode)
	}
	return fmt.Sprintf("row %d of episode %d/%d", k.row, k.group, k.episode)
}

// leftOut are the rows that the trainer cannot train: their gradient is not
// finite, they do not fit into memory, or they are too long.
type leftOut map[rowKey]bool

func (l leftOut) has(k rowKey) bool {
	return l[k] || l[rowKey{group: k.group, episode: k.episode, row: wholeEpisode}]
}

// from returns the episodes without those that have nothing left to train, and
// with the number of tokens that are left.
func (l leftOut) from(episodes []trainedEpisode) []trainedEpisode {
	if len(l) == 0 {
		return episodes
	}
	var out []trainedEpisode
	for _, e := range episodes {
		e.tokens = 0
		for i, r := range e.rows {
			if !l.has(rowKey{group: e.group, episode: e.number, row: i}) {
				e.tokens += countTrained(r)
			}
		}
		if e.tokens > 0 {
			out = append(out, e)
		}
	}
	return out
}

// refusesRows reports whether an error is about the rows of a pass, not about
// the trainer or the connection to it.
func refusesRows(err error) bool {
	var other *notAboutRows
	if errors.As(err, &other) {
		return false
	}
	return trainerbridge.RefusesRows(err)
}

// notAboutRows is an error that other rows would not avoid.
type notAboutRows struct{ error }

func (n *notAboutRows) Unwrap() error { return n.error }

// errNotFinite is the error of a pass whose loss or gradient is not finite.
var errNotFinite = errors.New("the loss or the gradient is not finite")

func finite(values ...float64) bool {
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}

// leaveOut finds the rows because of which a pass fails and adds them to left. It
// returns an error if too many steps in a row had such rows.
func (s trainStage) leaveOut(ctx context.Context, batch Batch, before state, pass *failedPass, left leftOut) error {
	version := before.policy.Version
	if limit := s.config.Trainer.MaxIncompleteSteps; before.incomplete() >= limit {
		// The cause is no part of the error: a restart would not help.
		return fmt.Errorf("the trainer refuses rows of this step, as of the %d steps before: %v\n"+
			"  hint: the step is not committed; continue with other values of [optimizer], [loss], "+
			"trainer.micro_batch_tokens or trainer.max_incomplete_steps", limit, withoutHint{pass.err})
	}
	if err := restoreTrainer(ctx, s.ledger, s.trainer, version); err != nil {
		return err
	}
	keys, err := s.culprits(ctx, version, pass)
	if err != nil {
		return fmt.Errorf("look for the rows that the trainer refuses (%v): %w", withoutHint{pass.err}, err)
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		left[k], names[i] = true, k.String()
	}
	const shown = 5
	list := strings.Join(names[:min(len(names), shown)], ", ")
	if len(names) > shown {
		list += fmt.Sprintf(" and %d more", len(names)-shown)
	}
	text := fmt.Sprintf("the step is trained without %s: %v", list, withoutHint{pass.err})
	s.log.Warn().Int64("step", batch.Step).Int("rows", len(keys)).Msg(text)
	if err := s.ledger.Event(ctx, batch.Step, eventLeftOut, text); err != nil {
		return err
	}
	if err := restoreTrainer(ctx, s.ledger, s.trainer, version); err != nil {
		return err
	}
	return s.ledger.DiscardAfter(version)
}

// withoutHint is an error whose text ends before its hint, because another hint
// follows.
type withoutHint struct{ error }

func (w withoutHint) Error() string {
	text, _, _ := strings.Cut(w.error.Error(), "\n  hint: ")
	return text
}

func (w withoutHint) Unwrap() error { return w.error }

// incomplete counts the newest steps in a row in which rows were left out.
func (s state) incomplete() int {
	n := 0
	for i := len(s.recent) - 1; i >= 0 && s.recent[i].LeftOut > 0; i-- {
		n++
	}
	return n
}

// A miniBatch is what one optimizer step trains on.
type miniBatch struct {
	rows []trainerbridge.Row
	keys []rowKey
}

// optimize makes an optimizer step. It returns the norm of the gradient, and the
// trainer's log-probs of each row's tokens[1:] from before the step. If what it
// computes is not finite, that is an error, too.
func (s trainStage) optimize(ctx context.Context, rows []trainerbridge.Row, settings trainerbridge.Adam) (
	trainerbridge.Stats, float64, [][]float32, error) {
	stats, logprobs, err := s.trainer.ForwardBackward(ctx, rows, loss(s.config.Loss))
	if err == nil && !finite(stats.Loss(), stats.MaxRatio(), stats.KLBase(), stats.ApproxKL(), stats.Entropy()) {
		err = errNotFinite
	}
	if err != nil {
		return nil, 0, nil, err
	}
	applied, err := s.trainer.OptimStep(ctx, settings)
	var refused *trainerbridge.RequestError
	switch {
	case err == nil && !finite(applied.GradNorm()):
		err = errNotFinite
	case err != nil && !errors.As(err, &refused):
		err = &notAboutRows{err}
	}
	if err == nil {
		stats.TakeStep(applied)
	}
	return stats, applied.GradNorm(), logprobs, err
}

// blame makes an error of a mini-batch a [*failedPass] if it is about the rows.
// earlier are the mini-batches of the step before it.
func (s trainStage) blame(ctx context.Context, err error, batch miniBatch, earlier []miniBatch,
	settings trainerbridge.Adam) error {
	lengths := make([]int, len(batch.rows))
	for i, r := range batch.rows {
		lengths[i] = len(r.Tokens)
	}
	if ctx.Err() != nil || !refusesRows(err) {
		return killed(err, batch.keys, lengths)
	}
	pass := &failedPass{err: err, keys: batch.keys, lengths: lengths}
	pass.try = func(ctx context.Context, which []int) error {
		_, _, _, err := s.optimize(ctx, pick(batch.rows, which), settings)
		return err
	}
	if len(earlier) == 0 {
		return pass
	}
	pass.replay = func(ctx context.Context, which []int) error {
		for _, b := range earlier {
			if _, _, _, err := s.optimize(ctx, b.rows, settings); err != nil {
				return &notAboutRows{fmt.Errorf("repeat an earlier mini-batch: %w", err)}
			}
		}
		return pass.try(ctx, which)
	}
	return pass
}

// scoredEpisodes names the episodes of rows that were to be scored.
func scoredEpisodes(episodes []trainedEpisode) (keys []rowKey, lengths []int, rows []trainerbridge.Row) {
	for _, e := range episodes {
		for _, r := range e.sampled {
			keys = append(keys, rowKey{group: e.group, episode: e.number, row: wholeEpisode})
			lengths, rows = append(lengths, len(r.Tokens)), append(rows, trainerbridge.Row{Tokens: r.Tokens})
		}
	}
	return keys, lengths, rows
}

// fits reports whether the returns of an episode can be trained on: float32, in
// which the trainer computes, must hold them.
func fits(t rollout.Trajectory) bool { return math.Abs(t.EnvReturn) <= rollout.MaxReturn }
