package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/manifest"
)

// warmBase is the folder of a run's warm-started model. If it exists, the run
// begins with this model instead of model.path.
func warmBase(c config.Config) string { return filepath.Join(c.Run.Dir, c.Run.Name, "base") }

// withWarmBase names the run's warm-started model in model.path, if there is one.
// So the stored configuration has it too, and a run whose warm-started model was
// removed cannot continue with another base.
func withWarmBase(c config.Config) (config.Config, error) {
	base := warmBase(c)
	if !fileExists(filepath.Join(base, manifest.WarmStart)) || c.Model.Path == base {
		return c, nil
	}
	if gguf := c.Sampler.LlamaCPP.GGUF; gguf != "" {
		return c, &config.Error{Place: "sampler.llamacpp.gguf",
			Msg:  gguf + " is the model before the warm start in " + base,
			Hint: "leave the key out: empo2 converts the warm-started model"}
	}
	c.Model.Path = base
	return c, nil
}

// checkWarmStart refuses to begin a run whose warm start is not finished: it would
// begin with model.path, and the warm start could not follow.
func checkWarmStart(ctx context.Context, c config.Config) error {
	base := warmBase(c)
	if fileExists(filepath.Join(base, manifest.WarmStart)) || !fileExists(base+".work") ||
		ledger.Begun(ctx, filepath.Dir(base)) {
		return nil
	}
	return &config.Error{Place: base + ".work", Msg: "the warm start of this run is not finished",
		Hint: "repeat its empo2 warmstart command, or remove the folder to begin without it"}
}

// hasCheckpoints reports whether a warm start has checkpoints in its work folder, also
// damaged ones.
func hasCheckpoints(work string) bool {
	_, err := os.Stat(filepath.Join(work, "damaged"))
	return err == nil || newestCheckpoint(work) != ""
}

// newestCheckpoint returns the number of the newest checkpoint of a warm start; empty:
// there is none.
func newestCheckpoint(work string) string {
	entries, err := os.ReadDir(filepath.Join(work, "checkpoints"))
	newest := ""
	for _, e := range entries { // in order
		if n, wrong := strconv.Atoi(e.Name()); wrong == nil && n > 0 {
			newest = strconv.Itoa(n)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "unknown"
	}
	return newest
}

// withMovedBase returns a run's stored configuration with the warm-started model
// where it is now: users may move the run's folder. now names the run.
func withMovedBase(stored, now config.Config) config.Config {
	if stored.Model.Path == warmBase(stored) {
		stored.Model.Path = warmBase(now)
	}
	return stored
}
