package orchestrator

import (
	"context"
	"errors"
	"fmt"

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
	const text = "the system killed the trainer, most likely because memory ran out; " +
		"the next attempt uses half the memory for a micro-batch"
	log.Warn().Int64("step", step).Msg(text + "; a lower trainer.micro_batch_tokens may avoid this")
	return led.Event(ctx, step, eventOutOfMemory, text)
}
