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
)

// keptCheckpoints is how many checkpoints a training keeps.
const keptCheckpoints = 2

const historyFile = "history.json"

// resume brings the trainer to the newest checkpoint.
func (t *Training) resume(ctx context.Context) error {
	steps, err := t.checkpoints()
	if err != nil {
		return err
	}
	newest := 0
	if len(steps) > 0 {
		newest = steps[len(steps)-1]
	}
	if err := t.Trainer.Restore(ctx, newest); err != nil {
		return err
	}
	return t.load(newest)
}

// load reads the history up to a checkpoint.
func (t *Training) load(step int) error {
	t.saved, t.savedAt, t.history = step, time.Now(), nil
	if step == 0 {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(t.Dir, historyFile))
	if err == nil {
		err = json.Unmarshal(text, &t.history)
	}
	if err != nil {
		return fmt.Errorf("history of the training in %s: %w", t.Dir, err)
	}
	t.history = slices.DeleteFunc(t.history, func(s Step) bool { return s.Step > step })
	if t.done() != step {
		return fmt.Errorf("%s ends at step %d, but the newest checkpoint is of step %d\n"+
			"  hint: remove the folder to train from the beginning", filepath.Join(t.Dir, historyFile), t.done(), step)
	}
	return nil
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
	t.saved, t.savedAt, t.restarts = t.done(), time.Now(), 0
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
