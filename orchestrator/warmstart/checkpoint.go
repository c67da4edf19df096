package warmstart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// keptCheckpoints is how many checkpoints a training keeps.
const keptCheckpoints = 2

const historyFile = "history.json"

// restore brings the trainer to the newest checkpoint that is not damaged. Damaged
// ones are set aside.
func (t *Training) restore(ctx context.Context) error {
	steps, err := t.checkpoints()
	if err != nil {
		return err
	}
	newest := 0
	for i := len(steps) - 1; i >= 0 && newest == 0; i-- {
		_, damage := manifest.Verify(t.checkpoint(steps[i]), manifest.Checkpoint)
		switch {
		case damage == nil:
			newest = steps[i]
		case !errors.Is(damage, manifest.ErrDamaged):
			return fmt.Errorf("checkpoint of step %d: %w", steps[i], damage)
		default:
			t.Log.Warn().Err(damage).Int("step", steps[i]).
				Msg("the checkpoint is set aside; the training continues from an earlier one")
			if err := t.setAside(steps[i]); err != nil {
				return err
			}
		}
	}
	if err := t.Trainer.Restore(ctx, newest); err != nil {
		return err
	}
	t.load(newest)
	return nil
}

// setAside moves a damaged checkpoint to another folder, with a number after its
// name if there is one of the same step.
func (t *Training) setAside(step int) error {
	if err := os.MkdirAll(filepath.Join(t.Dir, "damaged"), 0o755); err != nil {
		return err
	}
	to := filepath.Join(t.Dir, "damaged", filepath.Base(t.checkpoint(step)))
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return os.Rename(t.checkpoint(step), to)
		}
		to = filepath.Join(t.Dir, "damaged", fmt.Sprintf("%06d-%d", step, n))
	}
}

// load reads the history up to a checkpoint.
func (t *Training) load(step int) {
	t.saved, t.savedAt, t.history = step, time.Now(), nil
	if step == 0 {
		return
	}
	text, err := os.ReadFile(filepath.Join(t.Dir, historyFile))
	if err == nil {
		err = json.Unmarshal(text, &t.history)
	}
	t.history = slices.DeleteFunc(t.history, func(s Step) bool { return s.Step > step })
	if err != nil || t.done() != step {
		t.Log.Warn().Str("file", filepath.Join(t.Dir, historyFile)).
			Msg("the history of the training is damaged: the losses of its first steps are lost")
		t.history = []Step{{Step: step}}
	}
}

// save writes the history and then the checkpoint of the newest step, so that
// every checkpoint has its history. It removes old checkpoints.
func (t *Training) save(ctx context.Context) error {
	text, err := json.Marshal(t.history)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(t.Dir, historyFile), text); err != nil {
		return err
	}
	if err := t.Trainer.Save(ctx, t.done()); err != nil {
		return fmt.Errorf("checkpoint of step %d: %w", t.done(), err)
	}
	t.saved, t.savedAt = t.done(), time.Now()
	steps, err := t.checkpoints()
	if err != nil || len(steps) <= keptCheckpoints {
		return err
	}
	for _, old := range steps[:len(steps)-keptCheckpoints] {
		if err := os.RemoveAll(t.checkpoint(old)); err != nil {
			return err
		}
	}
	return nil
}

func (t *Training) checkpoint(step int) string {
	return filepath.Join(t.Dir, "checkpoints", fmt.Sprintf("%06d", step))
}

// checkpoints lists the steps that have a checkpoint, in order. The trainer
// renames a checkpoint to its name when it is complete.
func (t *Training) checkpoints() ([]int, error) {
	entries, err := os.ReadDir(filepath.Join(t.Dir, "checkpoints"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var steps []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 {
			steps = append(steps, n)
		}
	}
	slices.Sort(steps)
	return steps, nil
}

// replaceFile writes a file atomically.
func replaceFile(path string, text []byte) error {
	temporary := path + ".tmp"
	f, err := os.Create(temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(temporary, path)
}
