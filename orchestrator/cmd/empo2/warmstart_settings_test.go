package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/warmstart"
)

// An unfinished warm start goes on with another learning rate, and records it. It
// refuses another base, other data, and arguments of the chat template that are new
// or gone.
func TestSettingsOfAnUnfinishedWarmStart(t *testing.T) {
	work := filepath.Join(t.TempDir(), "a[1].work")
	if err := os.MkdirAll(filepath.Join(work, "checkpoints", "000012"), 0o755); err != nil {
		t.Fatal(err)
	}
	first := func() settings {
		return settings{BaseFiles: map[string]string{"model.safetensors": "1"}, DataSHA256: "2",
			TemplateArgs: map[string]any{"enable_thinking": false},
			Training:     warmstart.Config{Steps: 20, LearningRate: 0.5, Schedule: warmstart.Cosine}}
	}
	begin := func(change func(*settings)) (*warmStart, error) {
		w := &warmStart{work: work, settings: first()}
		change(&w.settings)
		return w, w.begin(zerolog.Nop())
	}
	stored := filepath.Join(work, "settings.json")
	text, err := json.Marshal(first())
	if err == nil {
		err = os.WriteFile(stored, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []func(*settings){
		func(s *settings) { s.BaseFiles["model.safetensors"] = "9" },
		func(s *settings) { s.BaseFiles["tokenizer.json"] = "9" },
		func(s *settings) { s.BaseFiles = nil },
		func(s *settings) { s.DataSHA256 = "9" },
		func(s *settings) { s.TemplateArgs = nil },
		func(s *settings) { s.TemplateArgs = map[string]any{} },
		func(s *settings) { s.Training.Steps, s.Training.LearningRate = 30, 0.1 },
	} {
		var fault *config.Error
		if w, err := begin(other); !errors.As(err, &fault) || !strings.Contains(fault.Msg, "other settings") {
			t.Errorf("%+v: %v", w.settings, err)
		}
	}
	changes := func(change func(*settings), want ...string) {
		t.Helper()
		if w, err := begin(change); err != nil || !slices.Equal(w.settings.Changes, want) {
			t.Errorf("%q, %v; want %q", w.settings.Changes, err, want)
		}
	}
	const lower = "after step 12: training.LearningRate: 0.5 → 0.1"
	changes(func(*settings) {})
	changes(func(s *settings) { s.Training.LearningRate = 0.1 }, lower)
	changes(func(s *settings) { s.Training.LearningRate = 0.1 }, lower)
	changes(func(s *settings) { s.Training.LearningRate, s.Training.Adam.GradClipNorm = 0.1, 2 }, lower,
		"after step 12: training.Adam.grad_clip_norm: 0 → 2")
}
