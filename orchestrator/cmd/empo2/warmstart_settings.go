package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rs/zerolog"

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
	Base       string `json:"base"`
	BaseConfig string `json:"base_config_sha256"`
	// BaseFiles has the SHA-256 of each file that the model's outputs depend on.
	BaseFiles      map[string]string `json:"base_files"`
	Data           string            `json:"data"`
	DataSHA256     string            `json:"data_sha256"`
	Demonstrations int               `json:"demonstrations"`
	Rank           int               `json:"rank"`
	Alpha          float64           `json:"alpha"`
	TargetModules  []string          `json:"target_modules"`
	Dtype          string            `json:"dtype"`
	Template       string            `json:"template"`
	TemplateArgs   map[string]any    `json:"template_args"`
	Thinking       string            `json:"thinking"`
	SkipLong       bool              `json:"skip_long"`
	Training       warmstart.Config  `json:"training"`
	// Changes says which settings were other ones until a step.
	Changes []string `json:"changes,omitempty"`
}

// changeable are the settings that may change while a training is unfinished.
var changeable = []string{"training.LearningRate", "training.Schedule", "training.WarmupSteps", "training.Adam."}

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
	var files map[string]string
	if model != config.Embedded {
		if err := checkModels(c); err != nil {
			return nil, err
		}
		if base, err = manifest.Sum(filepath.Join(model, "config.json")); err != nil {
			return nil, err
		}
		if files, err = modelSums(ctx, c); err != nil {
			return nil, err
		}
		if model, err = filepath.Abs(model); err != nil {
			return nil, err
		}
	}
	w.settings = settings{
		Base: model, BaseConfig: base, BaseFiles: files, Data: cmd.Data, DataSHA256: data, Demonstrations: demonstrations,
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
	if differ := differences(about.Settings, w.settings); len(differ) > 0 {
		return false, &config.Error{Place: w.out, Msg: "it was made with other settings: " + strings.Join(differ, ", "),
			Hint: hint}
	}
	return true, nil
}

// next says how a run begins with the model.
func (w *warmStart) next() string {
	if w.cmd.Out == "" {
		return "next: empo2 run with the same configuration begins with it"
	}
	return "next: empo2 run --set " + safetext.Argument("model.path="+w.out)
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
// Changes that it may have are recorded with the model.
func (w *warmStart) begin(log zerolog.Logger) error {
	path := filepath.Join(w.work, "settings.json")
	if hasCheckpoints(w.work) {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		differ := differences(text, w.settings)
		if i := slices.IndexFunc(differ, func(d string) bool { return !isChangeable(d) }); i >= 0 {
			return &config.Error{Place: w.work,
				Msg:  "the unfinished training in it has other settings: " + strings.Join(differ, ", "),
				Hint: "repeat its command to continue it, or remove the folder to begin anew"}
		}
		if err := w.keepChanges(text, differ, log); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(w.settings, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func isChangeable(difference string) bool {
	return slices.ContainsFunc(changeable, func(key string) bool { return strings.HasPrefix(difference, key) })
}

// keepChanges keeps the changes that the stored settings list, and adds new ones.
func (w *warmStart) keepChanges(stored []byte, differ []string, log zerolog.Logger) error {
	var before settings
	if err := json.Unmarshal(stored, &before); err != nil {
		return err
	}
	w.settings.Changes = before.Changes
	if len(differ) > 0 {
		change := "after step " + cmp.Or(newestCheckpoint(w.work), "0") + ": " + strings.Join(differ, ", ")
		w.settings.Changes = append(w.settings.Changes, change)
		log.Warn().Msg("the training continues with other settings " + change)
	}
	return nil
}

// differences lists the settings that differ from stored ones, with both values.
func differences(stored []byte, now settings) []string {
	var before, after map[string]any
	text, err := json.Marshal(now)
	if err == nil {
		err = json.Unmarshal(text, &after)
	}
	if err != nil || json.Unmarshal(stored, &before) != nil {
		return []string{"they cannot be read"}
	}
	delete(after, "data") // the checksum counts
	delete(after, "changes")
	if before["base_files"] == nil { // an earlier version recorded none
		delete(after, "base_files")
	}
	var differ []string
	for _, key := range slices.Sorted(maps.Keys(after)) {
		differ = appendDifferences(differ, key, before[key], after[key])
	}
	return differ
}

// appendDifferences appends "key: before → after" if the values differ, or for each
// of their values that differs.
func appendDifferences(differ []string, key string, before, after any) []string {
	old, wasMap := before.(map[string]any)
	now, isMap := after.(map[string]any)
	if !wasMap || !isMap {
		if a, b := fmt.Sprint(before), fmt.Sprint(after); a != b {
			differ = append(differ, fmt.Sprintf("%s: %s → %s", key, a, b))
		}
		return differ
	}
	both := maps.Clone(old)
	maps.Copy(both, now)
	for _, k := range slices.Sorted(maps.Keys(both)) {
		differ = appendDifferences(differ, key+"."+k, old[k], now[k])
	}
	return differ
}
