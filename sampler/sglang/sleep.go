package sglang

import (
	"context"
	"errors"
	"fmt"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// SGLang does not tell whether it sleeps, and crashes if it is woken while it
// is awake (its scheduler removes missing tags from a set,
// scheduler_update_weights_mixin.py). The server has a free text for the
// version of the weights, which outlives us: we store there whether it sleeps.
// The text changes before the memory does, so that it is right even if the run
// is killed in between.
const (
	asleepVersion = "empo2-asleep"
	awakeVersion  = "default" // as it is when a server starts
)

// Asleep says whether this or an earlier run put the server to sleep.
func (s *server) Asleep(ctx context.Context) (bool, error) {
	var about struct {
		Version string `json:"weight_version"`
	}
	if err := s.Call(ctx, "/get_model_info", nil, &about); err != nil {
		return false, unreachable(err)
	}
	return about.Version == asleepVersion, nil
}

// mark sets what Asleep reads. It aborts no request.
func (s *server) mark(ctx context.Context, version string) error {
	err := s.Call(ctx, "/update_weight_version", map[string]any{"new_version": version, "abort_all_requests": false}, nil)
	if err != nil {
		return fmt.Errorf("note whether it sleeps: %w\n  hint: sampler.sglang.sleep needs SGLang 0.5.2 or newer", err)
	}
	return nil
}

// Sleep gives the memory of weights and cache back. The server must be idle.
// Its prefix cache is emptied first, because its content is lost.
func (s *server) Sleep(ctx context.Context) error {
	if err := s.Call(ctx, "/flush_cache", struct{}{}, nil); err != nil {
		return err
	}
	if err := s.mark(ctx, asleepVersion); err != nil {
		return err
	}
	err := s.Call(ctx, "/release_memory_occupation", struct{}{}, nil)
	if jsonhttp.Status(err) != 0 {
		err = errors.Join(err, s.mark(ctx, awakeVersion))
	}
	return err
}

// Wake takes the memory again, if the server sleeps.
func (s *server) Wake(ctx context.Context) error {
	asleep, err := s.Asleep(ctx)
	if err != nil || !asleep {
		return err
	}
	if err := s.mark(ctx, awakeVersion); err != nil {
		return err
	}
	return s.Call(ctx, "/resume_memory_occupation", struct{}{}, nil)
}
