package warmstart

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/empo2/empo2/orchestrator/culprit"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// heldOut is the mean cross-entropy of the held-out examples after a step; 0 if
// there are none. It sends them in batches, because the time limit of a call holds
// for a batch. Examples that the trainer refuses are left out.
func (t *Training) heldOut(ctx context.Context, step int) (float64, error) {
	sum, n := 0.0, 0
	for batch := range slices.Chunk(t.left.from(t.held, step), t.Config.Batch) {
		loss, trained, err := t.score(ctx, batch)
		if err != nil && refusesExamples(err) && ctx.Err() == nil {
			loss, trained, err = t.scoreSome(ctx, step, batch, err)
		}
		if err != nil {
			return 0, fmt.Errorf("held-out loss: %w", err)
		}
		sum, n = sum+loss, n+trained
	}
	return sum / float64(max(1, n)), nil
}

// score is the sum of the cross-entropies of examples, and the number of their
// trained tokens.
func (t *Training) score(ctx context.Context, batch []Example) (sum float64, n int, err error) {
	if len(batch) == 0 {
		return 0, 0, nil
	}
	sent := rows(batch)
	logprobs, err := t.Trainer.Forward(ctx, sent)
	if err != nil {
		return 0, 0, err
	}
	if sum, n = sumLoss(sent, logprobs); !finite(sum) {
		err = errNotFinite
	}
	return sum, n, err
}

// scoreSome scores the examples of a batch that the trainer does not refuse, and
// leaves out the others.
func (t *Training) scoreSome(ctx context.Context, step int, batch []Example, why error) (float64, int, error) {
	found, err := culprit.Find(ctx, len(batch), func(ctx context.Context, which []int) (bool, error) {
		_, _, err := t.score(ctx, pick(batch, which))
		if err != nil && (ctx.Err() != nil || !refusesExamples(err)) {
			return false, err
		}
		return err != nil, nil
	})
	if err != nil {
		return 0, 0, err
	}
	if err := t.record(step, pick(batch, found), why); err != nil {
		return 0, 0, err
	}
	return t.score(ctx, t.left.from(batch, step))
}

// refusesExamples reports whether the error of a score is about its examples.
func refusesExamples(err error) bool {
	return errors.Is(err, errNotFinite) || trainerbridge.RefusesRows(err)
}
