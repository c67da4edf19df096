package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/manifest"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/warmstart"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// A warmStart is what one command trains: from which model and data, and where to.
type warmStart struct {
	cmd      *warmstartCmd
	config   config.Config
	out      string // the new model folder
	work     string // checkpoints, until the folder is complete
	training warmstart.Config
	settings settings
}

// settings are recorded with the model. A training continues only with the same.
type settings struct {
	Base           string           `json:"base"`
	BaseConfig     string           `json:"base_config_sha256"`
	Data           string           `json:"data"`
	DataSHA256     string           `json:"data_sha256"`
	Demonstrations int              `json:"demonstrations"`
	Rank           int              `json:"rank"`
	Alpha          float64          `json:"alpha"`
	TargetModules  []string         `json:"target_modules"`
	Dtype          string           `json:"dtype"`
	Template       string           `json:"template"`
	TemplateArgs   map[string]any   `json:"template_args"`
	Thinking       string           `json:"thinking"`
	SkipLong       bool             `json:"skip_long"`
	Training       warmstart.Config `json:"training"`
}

// plan fixes all settings.
func (cmd *warmstartCmd) plan(ctx context.Context, c config.Config, demonstrations int) (*warmStart, error) {
	w := &warmStart{cmd: cmd, config: c, out: cmd.Out}
	if w.out == "" {
		w.out = warmBase(c)
	}
	w.work = strings.TrimRight(w.out, "/") + ".work"
	if cmd.Out == "" && ledger.Begun(ctx, filepath.Dir(w.out)) {
		return nil, &config.Error{Place: "run " + filepath.Dir(w.out),
			Msg:  "it has begun; a warm start comes before it",
			Hint: "choose another name (--set run.name=…), or another folder (--out DIR)"}
	}
	data, err := manifest.Sum(cmd.Data)
	if err != nil {
		return nil, err
	}
	w.training = cmd.training(c, demonstrations)
	model, base := c.Model.Path, ""
	if model != config.Embedded {
		if err := checkModels(c); err != nil {
			return nil, err
		}
		if base, err = manifest.Sum(filepath.Join(model, "config.json")); err != nil {
			return nil, err
		}
		if model, err = filepath.Abs(model); err != nil {
			return nil, err
		}
	}
	w.settings = settings{
		Base: model, BaseConfig: base, Data: cmd.Data, DataSHA256: data, Demonstrations: demonstrations,
		Rank: cmd.Rank, Alpha: float64(2 * cmd.Rank), TargetModules: c.Trainer.TargetModules, Dtype: c.Trainer.Dtype,
		Template: c.Sampler.Template, TemplateArgs: c.Sampler.TemplateArgs, Thinking: c.Sampler.Thinking,
		SkipLong: cmd.SkipLong, Training: w.training,
	}
	return w, nil
}

// training derives the number of steps and the schedule.
func (cmd *warmstartCmd) training(c config.Config, demonstrations int) warmstart.Config {
	o := c.Optimizer
	t := warmstart.Config{
		Batch: cmd.Batch, LearningRate: cmd.LearningRate, Schedule: cmd.Schedule,
		WarmupSteps: cmd.WarmupSteps, Holdout: cmd.Holdout, Seed: c.Run.Seed,
		Adam: trainerbridge.Adam{Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.WeightDecay,
			GradClipNorm: o.GradClipNorm},
	}
	if cmd.Steps != nil {
		t.Steps = *cmd.Steps
	} else {
		epochs := 1.0
		if cmd.Epochs != nil {
			epochs = *cmd.Epochs
		}
		trained := float64(demonstrations) * (1 - cmd.Holdout)
		t.Steps = max(1, int(epochs*trained/float64(cmd.Batch)+0.5))
	}
	if t.WarmupSteps < 0 {
		t.WarmupSteps = t.Steps / 20
	}
	return t
}

// finished reports whether the folder was made with the same settings. Other
// content is an error.
func (w *warmStart) finished() (bool, error) {
	if !fileExists(w.out) {
		return false, nil
	}
	hint := "remove the folder, or choose another one with --out"
	text, err := os.ReadFile(filepath.Join(w.out, manifest.WarmStart))
	if err != nil {
		return false, &config.Error{Place: w.out, Msg: "it exists and is not the result of a warm start", Hint: hint}
	}
	var about struct {
		Settings json.RawMessage `json:"settings"`
	}
	if err := json.Unmarshal(text, &about); err != nil {
		return false, fmt.Errorf("%s: %w\n  hint: %s", filepath.Join(w.out, "warmstart.json"),
			safetext.JSONError(err), hint)
	}
	if differ := differences(about.Settings, w.settings); differ != "" {
		return false, &config.Error{Place: w.out, Msg: "it was made with other settings: " + differ, Hint: hint}
	}
	return true, nil
}

// next says how a run begins with the model.
func (w *warmStart) next() string {
	if w.cmd.Out == "" {
		return "next: empo2 run with the same configuration begins with it"
	}
	return "next: empo2 run --set model.path=" + w.out
}

// lock creates the work folder and keeps other commands out of it.
func (w *warmStart) lock() (io.Closer, error) {
	if err := os.MkdirAll(w.work, 0o755); err != nil {
		return nil, err
	}
	lock, err := ledger.Lock(filepath.Join(w.work, "lock"))
	if err != nil {
		return nil, fmt.Errorf("warm start in %s: %w", w.work, err)
	}
	return lock, nil
}

// leave removes the work folder of a training that failed before its first checkpoint,
// because a run does not begin beside it. After an interruption it stays. made is the
// first folder that was made for it; empty: none.
func (w *warmStart) leave(ctx context.Context, failed error, made string) error {
	if failed == nil || ctx.Err() != nil || hasCheckpoints(w.work) {
		return nil
	}
	if made == "" {
		made = w.work
	}
	return removeMade(w.work, made)
}

// begin stores the settings of a new training, and checks those of one to continue.
func (w *warmStart) begin() error {
	path := filepath.Join(w.work, "settings.json")
	if hasCheckpoints(w.work) {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if differ := differences(text, w.settings); differ != "" {
			return &config.Error{Place: w.work, Msg: "the unfinished training in it has other settings: " + differ,
				Hint: "repeat its command to continue it, or remove the folder to begin anew"}
		}
		return nil
	}
	text, err := json.MarshalIndent(w.settings, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// differences names the settings that differ from stored ones, with both values.
func differences(stored []byte, now settings) string {
	var before, after map[string]any
	text, err := json.Marshal(now)
	if err == nil {
		err = json.Unmarshal(text, &after)
	}
	if err != nil || json.Unmarshal(stored, &before) != nil {
		return "they cannot be read"
	}
	delete(before, "data") // the checksum counts
	delete(after, "data")
	var differ []string
	flatten("", before, after, &differ)
	return strings.Join(differ, ", ")
}

// flatten appends "key: before → after" for each value of after that differs.
func flatten(prefix string, before, after map[string]any, differ *[]string) {
	for _, key := range slices.Sorted(maps.Keys(after)) {
		old, isMap := before[key].(map[string]any)
		if now, ok := after[key].(map[string]any); ok && isMap {
			flatten(prefix+key+".", old, now, differ)
			continue
		}
		if a, b := fmt.Sprint(before[key]), fmt.Sprint(after[key]); a != b {
			*differ = append(*differ, fmt.Sprintf("%s%s: %s → %s", prefix, key, a, b))
		}
	}
}
