package sglang

import (
	"context"
	"errors"
	"fmt"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// SGLang does not report whether it sleeps. It crashes if it is woken while it is
// awake (its scheduler removes missing tags from a set,
// scheduler_update_weights_mixin.py). This backend therefore stores the state in
// the server, as the text that SGLang has for the version of the weights. The text
// changes before the memory does, so that it is right even if the run is killed in
// between.
const (
	asleepVersion = "empo2-asleep"
	awakeVersion  = "default" // SGLang's value at the start
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

// recordAsleep stores the text that Asleep reads. It aborts no request.
func (s *server) recordAsleep(ctx context.Context, version string) error {
	err := s.Call(ctx, "/update_weight_version", map[string]any{"new_version": version, "abort_all_requests": false}, nil)
	if err != nil {
		return fmt.Errorf("store the weight version: %w\n  hint: sampler.sglang.sleep needs SGLang 0.5.2 or newer", err)
	}
	return nil
}

// Sleep releases the memory of weights and cache. The server must be idle. Sleep
// empties the prefix cache first, because its content is lost.
func (s *server) Sleep(ctx context.Context) error {
	if err := s.Call(ctx, "/flush_cache", struct{}{}, nil); err != nil {
		return err
	}
	if err := s.recordAsleep(ctx, asleepVersion); err != nil {
		return err
	}
	err := s.Call(ctx, "/release_memory_occupation", struct{}{}, nil)
	if jsonhttp.Status(err) != 0 {
		err = errors.Join(err, s.recordAsleep(ctx, awakeVersion))
	}
	return err
}

// Wake allocates the memory again, if the server sleeps.
func (s *server) Wake(ctx context.Context) error {
	asleep, err := s.Asleep(ctx)
	if err != nil || !asleep {
		return err
	}
	if err := s.recordAsleep(ctx, awakeVersion); err != nil {
		return err
	}
	return s.Call(ctx, "/resume_memory_occupation", struct{}{}, nil)
}
