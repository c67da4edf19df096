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

// A failedPass is a pass that the trainer refuses: to repeat it would fail again.
type failedPass struct {
	err     error
	keys    []rowKey // of the pass's rows
	lengths []int    // of the rows, in tokens
	// try repeats the pass with some of the rows. Nil: all rows are to blame.
	try func(ctx context.Context, rows []int) error
}

func (f *failedPass) Error() string { return f.err.Error() }
func (f *failedPass) Unwrap() error { return f.err }

// refusesRows reports whether an error is about the rows of a pass, not about
// the trainer or the connection to it.
func refusesRows(err error) bool {
	var refused *trainerbridge.RequestError
	if errors.As(err, &refused) {
		isAboutContent := refused.Status == 0 || refused.Status == 400 || refused.Status == 413 || refused.Status == 422
		return refused.Category == trainerbridge.CategoryUser && isAboutContent
	}
	return !trainerbridge.Restartable(err)
}

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

// culprits returns the rows because of which a pass fails. It repeats the pass
// with halves of the rows, with the weights of the committed version. If none of
// its parts fails alone, the whole pass is left out.
func (s trainStage) culprits(ctx context.Context, committed int, pass *failedPass) ([]rowKey, error) {
	if pass.try == nil {
		return pass.keys, nil
	}
	if keys := pass.tooLong(); len(keys) > 0 {
		return keys, nil
	}
	all := make([]int, len(pass.keys))
	for i := range all {
		all[i] = i
	}
	found, err := s.search(ctx, committed, pass, all)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 { // it fails only with the weights that the step had then
		return pass.keys, nil
	}
	keys := make([]rowKey, len(found))
	for i, row := range found {
		keys[i] = pass.keys[row]
	}
	return keys, nil
}

// tooLong returns the rows that do not fit into the trainer's memory, if the
// error says which these are.
func (f *failedPass) tooLong() []rowKey {
	var refused *trainerbridge.RequestError
	if !errors.As(f.err, &refused) || refused.OutOfMemory == nil {
		return nil
	}
	var keys []rowKey
	for i, n := range f.lengths {
		if n >= refused.OutOfMemory.Tokens {
			keys = append(keys, f.keys[i])
		}
	}
	return keys
}

// search returns those of the rows that fail alone, or all of them if they fail
// only together.
func (s trainStage) search(ctx context.Context, committed int, pass *failedPass, rows []int) ([]int, error) {
	err := pass.try(ctx, rows)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil || !refusesRows(err) {
		// A gradient that is left over must not join the next one.
		return nil, errors.Join(err, restoreTrainer(ctx, s.ledger, s.trainer, committed))
	}
	if err := restoreTrainer(ctx, s.ledger, s.trainer, committed); err != nil {
		return nil, err
	}
	if len(rows) == 1 {
		return rows, nil
	}
	half := len(rows) / 2
	first, err := s.search(ctx, committed, pass, rows[:half])
	if err != nil {
		return nil, err
	}
	second, err := s.search(ctx, committed, pass, rows[half:])
	if err != nil {
		return nil, err
	}
	if found := append(first, second...); len(found) > 0 {
		return found, nil
	}
	return rows, nil
}

// leaveOut finds the rows because of which a pass fails and adds them to left. It
// returns an error if too many steps in a row had such rows.
func (s trainStage) leaveOut(ctx context.Context, batch Batch, before state, pass *failedPass, left leftOut) error {
	version := before.policy.Version
	if limit := s.config.Trainer.MaxIncompleteSteps; before.incomplete() >= limit {
		return fmt.Errorf("the trainer refuses rows of this step, as of the %d steps before: %w\n"+
			"  hint: the step is not committed; continue with other values of [optimizer], [loss], "+
			"trainer.micro_batch_tokens or trainer.max_incomplete_steps", limit, withoutHint{pass.err})
	}
	if err := restoreTrainer(ctx, s.ledger, s.trainer, version); err != nil {
		return err
	}
	keys, err := s.culprits(ctx, version, pass)
	if err != nil {
		return fmt.Errorf("look for the rows that the trainer refuses (%w): %w", pass.err, err)
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
	text := fmt.Sprintf("the step is trained without %s: %v", list, pass.err)
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

// pass sends the rows of a mini-batch and returns the trainer's log-probs of each
// row's tokens[1:] too. An error that is about the rows is a [*failedPass].
func (s trainStage) pass(ctx context.Context, rows []trainerbridge.Row, keys []rowKey) (
	trainerbridge.Stats, [][]float32, error) {
	send := func(ctx context.Context, rows []trainerbridge.Row) (trainerbridge.Stats, [][]float32, error) {
		stats, logprobs, err := s.trainer.ForwardBackward(ctx, rows, loss(s.config.Loss))
		if err == nil && !finite(stats.Loss(), stats.MaxRatio(), stats.KLBase(), stats.ApproxKL(), stats.Entropy()) {
			err = errNotFinite
		}
		return stats, logprobs, err
	}
	stats, logprobs, err := send(ctx, rows)
	if err == nil || ctx.Err() != nil || !refusesRows(err) {
		return stats, logprobs, err
	}
	lengths := make([]int, len(rows))
	for i, r := range rows {
		lengths[i] = len(r.Tokens)
	}
	return nil, nil, &failedPass{err: err, keys: keys, lengths: lengths, try: func(ctx context.Context, which []int) error {
		part := make([]trainerbridge.Row, len(which))
		for i, row := range which {
			part[i] = rows[row]
		}
		_, _, err := send(ctx, part)
		return err
	}}
}

// optimStep applies the gradient of a mini-batch. A step that cannot be applied,
// or whose gradient is not finite, is the fault of the whole mini-batch.
func (s trainStage) optimStep(ctx context.Context, settings trainerbridge.Adam, keys []rowKey) (float64, error) {
	stats, err := s.trainer.OptimStep(ctx, settings)
	if err == nil && !finite(stats.GradNorm()) {
		err = errNotFinite
	}
	var refused *trainerbridge.RequestError
	isAnswer := errors.As(err, &refused) || errors.Is(err, errNotFinite)
	if err != nil && ctx.Err() == nil && isAnswer && refusesRows(err) {
		err = &failedPass{err: err, keys: keys}
	}
	return stats.GradNorm(), err
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
