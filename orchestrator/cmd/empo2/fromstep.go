package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// returnToStep brings the run back to a step and sets later steps aside. It
// teaches the memory everything up to that step again.
func returnToStep(ctx context.Context, c config.Config, step int64, out *console) error {
	if err := errElsewhere(c, "--from-step"); err != nil {
		return err
	}
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	err := ledger.View(ctx, dir, func(l *ledger.Ledger) error {
		text, err := l.Config(ctx)
		if err != nil || text == "" { // a damaged configuration is replaced by c
			return nil
		}
		return sameRun(text, dir, c)
	})
	var fault *config.Error
	if errors.Is(err, ledger.ErrInUse) || errors.As(err, &fault) {
		return err
	}
	aside, err := ledger.Return(ctx, dir, step, func(ctx context.Context, l *ledger.Ledger) error {
		if !c.HasMemory() {
			return nil
		}
		r := &run{ledger: l}
		defer r.Close()
		m, err := r.openMemory(ctx, c)
		if err != nil {
			return err
		}
		return orchestrator.Replay(ctx, l, m.Strategy, l.DB())
	})
	if errors.Is(err, ledger.ErrNotKept) {
		_, hint := splitHint(err)
		return &config.Error{Place: fmt.Sprintf("--from-step %d", step), Msg: ledger.ErrNotKept.Error(), Hint: hint}
	}
	if err != nil {
		return err
	}
	if aside == "" {
		out.note("%s is at step %d already", dir, step)
		return nil
	}
	out.note("%s is at step %d again; what came later is in %s", dir, step, aside)
	return nil
}

// memoryConfig returns the settings of a bank.
func memoryConfig(c config.Config, embedder memory.Embedder) memory.Config {
	m := memory.DefaultConfig(embedder)
	m.K, m.Threshold, m.Capacity = c.Memory.K, c.Memory.Threshold, c.Memory.Capacity
	m.Explore = c.Memory.Explore
	m.Novelty, m.NoveltyCap = memory.Novelty(c.Novelty.Source), c.Novelty.Cap
	return m
}
