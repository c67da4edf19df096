package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// A pieceSaver stores the texts of sampled tokens in the run, so that conversations
// can be shown token by token when no server runs. It looks at committed steps in a
// goroutine of its own, and rarely once the steps have no new tokens.
type pieceSaver struct {
	ledger  *ledger.Ledger
	decoder decoder
	log     zerolog.Logger

	steps chan int64 // the newest committed one
	stop  context.CancelFunc
	done  sync.WaitGroup
}

const (
	// detokenizeTimeout bounds one request for the text of a token.
	detokenizeTimeout = 5 * time.Second
	// maxNewPieces bounds the requests after a step.
	maxNewPieces = 200
)

func startPieceSaver(ctx context.Context, l *ledger.Ledger, d decoder, log zerolog.Logger) *pieceSaver {
	s := &pieceSaver{ledger: l, decoder: d, log: log, steps: make(chan int64, 1)}
	ctx, s.stop = context.WithCancel(ctx)
	s.done.Go(func() {
		if err := s.run(ctx); err != nil && ctx.Err() == nil {
			log.Debug().Err(err).Msg("the texts of tokens are not stored any more")
		}
	})
	return s
}

// Close ends the saver.
func (s *pieceSaver) Close() error {
	s.stop()
	s.done.Wait()
	return nil
}

// Phase implements [orchestrator.Observer].
func (s *pieceSaver) Phase(watchdog.Phase) {}

// Step implements [orchestrator.Observer].
func (s *pieceSaver) Step(m orchestrator.StepMetrics) {
	select {
	case s.steps <- m.Step:
	default: // it is busy; a later step has the same tokens
	}
}

// Evaluation implements [orchestrator.Observer].
func (s *pieceSaver) Evaluation(orchestrator.Evaluation) {}

// Prompt implements [orchestrator.Observer].
func (s *pieceSaver) Prompt(orchestrator.PromptReload) {}

var _ orchestrator.Observer = (*pieceSaver)(nil)

func (s *pieceSaver) run(ctx context.Context) error {
	known, err := s.ledger.Pieces(ctx, nil)
	if err != nil {
		return err
	}
	pause, next := int64(1), int64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case step := <-s.steps:
			if step < next {
				continue
			}
			found, err := s.save(ctx, step, known)
			if err != nil {
				return err
			}
			if pause = min(2*pause, 64); found > 0 {
				pause = 1
			}
			next = step + pause
		}
	}
}

// save stores the texts of the new tokens of a step, and returns their number.
func (s *pieceSaver) save(ctx context.Context, step int64, known map[int32]string) (int, error) {
	stored, err := s.ledger.Episodes(ctx, step)
	if err != nil {
		return 0, err
	}
	unknown := map[int32]bool{}
	for _, e := range stored {
		t, err := orchestrator.EpisodeOf(e)
		if err != nil {
			return 0, err
		}
		for _, turn := range t.Turns {
			for _, id := range turn.IDs {
				if _, ok := known[id]; !ok {
					unknown[id] = true
				}
			}
		}
	}
	found := map[int32]string{}
	for _, id := range slices.Sorted(maps.Keys(unknown)) {
		if len(found) == maxNewPieces {
			break
		}
		text, err := s.text(ctx, id)
		if err != nil {
			return 0, err
		}
		found[id], known[id] = text, text
	}
	if len(found) == 0 {
		return 0, nil
	}
	return len(found), s.ledger.SavePieces(ctx, found)
}

func (s *pieceSaver) text(ctx context.Context, id int32) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, detokenizeTimeout, errors.New("the text of a token took too long"))
	defer cancel()
	return s.decoder.Detokenize(ctx, []int32{id})
}
