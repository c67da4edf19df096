package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// eventOutOfMemory is the kind of the events that this file records.
const eventOutOfMemory = "out of memory"

// reportShortage records that the trainer halved its micro-batches during a pass
// because memory ran out. The pass itself is complete.
func (s trainStage) reportShortage(ctx context.Context, step int64, stats trainerbridge.Stats) error {
	n := stats.OutOfMemory()
	if n == 0 {
		return nil
	}
	text := fmt.Sprintf("the trainer ran out of memory %d times in a pass of %.0f tokens (peak %.2f GB) and halved its "+
		"micro-batches to %d tokens", n, stats.RowTokens(), float64(stats.PeakMemory())/1e9, stats.MicroBatchTokens())
	s.log.Warn().Int64("step", step).Msgf("%s; trainer.micro_batch_tokens = %d avoids these attempts",
		text, stats.MicroBatchTokens())
	return s.ledger.Event(ctx, step, eventOutOfMemory, text)
}

// reportKill records that the system killed the trainer, most likely because
// memory ran out. The trainer's next process uses half the memory for a
// micro-batch.
func reportKill(ctx context.Context, led *ledger.Ledger, log zerolog.Logger, step int64, err error) error {
	var exit *trainerbridge.ExitError
	if !errors.As(err, &exit) || !exit.OutOfMemory {
		return nil
	}
	log.Warn().Int64("step", step).Msg(killedText + "; a lower trainer.micro_batch_tokens may avoid this")
	return led.Event(ctx, step, eventOutOfMemory, killedText)
}

const killedText = "the system killed the trainer, most likely because memory ran out; " +
	"the next attempt uses half the memory for a micro-batch"

// MemoryShare is the part of the usual memory that a micro-batch may take when a run
// begins or continues: 1, or half for each time that the system killed the run's
// trainer for lack of memory.
func MemoryShare(ctx context.Context, led *ledger.Ledger) (float64, error) {
	kills, err := led.CountEvents(ctx, eventOutOfMemory, killedText)
	return max(math.Pow(0.5, float64(kills)), trainerbridge.SmallestShare), err
}

// A killedPass is a pass during which the system killed the trainer because memory
// ran out.
type killedPass struct {
	err     error
	keys    []rowKey // of the pass's rows
	lengths []int    // of the rows, in tokens
}

func (k *killedPass) Error() string { return k.err.Error() }
func (k *killedPass) Unwrap() error { return k.err }

// killed makes the error of a pass a [*killedPass] if it is one.
func killed(err error, keys []rowKey, lengths []int) error {
	var exit *trainerbridge.ExitError
	if !errors.As(err, &exit) || !exit.OutOfMemory {
		return err
	}
	return &killedPass{err: err, keys: keys, lengths: lengths}
}

// longest returns the keys of the n longest rows.
func (k *killedPass) longest(n int) []rowKey {
	order := make([]int, len(k.keys))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(k.lengths[b], k.lengths[a]) })
	return pick(k.keys, order[:min(n, len(order))])
}

// kills counts the kills of one step for lack of memory. After the first one the
// trainer's next process uses half the memory for a micro-batch. If that does not
// help, single rows are too long: the longest one is left out, then two more, four
// more, …
type kills int

// blame counts a kill. It makes the error of the second and of later ones a
// [*failedPass] of the rows to leave out.
func (k *kills) blame(err error) error {
	var pass *killedPass
	if !errors.As(err, &pass) {
		return err
	}
	if *k++; *k == 1 {
		return err
	}
	return &failedPass{err: err, keys: pass.longest(1 << (*k - 2))}
}
