package main

import (
	"context"
	"path/filepath"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/telemetry"
)

// tensorBoardFolder is the folder of a run that has its event files.
const tensorBoardFolder = "tensorboard"

// tellOthers returns the observers that show the run to other programs, as [run] says.
func (r *run) tellOthers(ctx context.Context, c config.Config, out *console) ([]orchestrator.Observer, error) {
	var all []orchestrator.Observer
	if c.Run.TensorBoard {
		board, err := r.tensorBoard(ctx, c)
		if err != nil {
			return nil, err
		}
		all = append(all, board)
		out.note("event files: tensorboard --logdir %s", filepath.Join(r.ledger.Dir, tensorBoardFolder))
	}
	if c.Run.Prometheus != "" {
		server, err := telemetry.ServePrometheus(c.Run.Prometheus, r.loop.Log)
		if err != nil {
			return nil, err
		}
		r.closes = append(r.closes, server.Close)
		observer := server.Run(c.Run.Name)
		if err := r.catchUp(ctx, observer); err != nil {
			return nil, err
		}
		all = append(all, observer)
		out.note("metrics for Prometheus: %s", server.URL())
	}
	return all, nil
}

// tensorBoard begins the event file of the run.
func (r *run) tensorBoard(ctx context.Context, c config.Config) (*telemetry.TensorBoard, error) {
	before, err := telemetry.Read(ctx, r.ledger, c.Run.Name, c.Run.MetricNames)
	if err != nil {
		return nil, err
	}
	board, err := telemetry.OpenTensorBoard(filepath.Join(r.ledger.Dir, tensorBoardFolder), c.Run.MetricNames, before,
		r.loop.Log)
	if err != nil {
		return nil, err
	}
	r.closes = append(r.closes, board.Close)
	return board, nil
}

// catchUp tells an observer what the run had reached before.
func (r *run) catchUp(ctx context.Context, o orchestrator.Observer) error {
	s, err := orchestrator.Summarize(ctx, r.ledger)
	if err != nil {
		return err
	}
	if n := len(s.History); n > 0 {
		o.Step(s.History[n-1])
	}
	for _, e := range s.Evaluations {
		o.Evaluation(e)
	}
	return nil
}
