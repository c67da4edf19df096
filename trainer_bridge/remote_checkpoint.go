package trainerbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// keptAt is where a trainer keeps a checkpoint of its own. It is stored in the checkpoint's manifest, whose checksum
// is in run.db.
type keptAt struct {
	URL  string `json:"url"`  // of the trainer, without user and password
	Path string `json:"path"` // complete, as the trainer returned it
}

// Save writes the checkpoint of a version into the run's folder. A trainer of this project gives all of it. Others
// give the adapter and keep the optimizer's state; the checkpoint says where.
func (r *Remote) Save(ctx context.Context, version int) error {
	dir, err := r.folder(version)
	if err != nil {
		return err
	}
	scratch := filepath.Join(filepath.Dir(dir), ".tmp-"+filepath.Base(dir)+"-remote")
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	name := unique(version)
	path, err := r.client.SaveCheckpoint(ctx, name)
	if err != nil {
		return err
	}
	if r.Client.Deviations.NoCheckpoints {
		err = r.saveAdapter(ctx, version, name, path, scratch)
	} else {
		err = r.saveAll(ctx, path, scratch, dir)
	}
	if err == nil {
		r.forgetOld(ctx)
	}
	return err
}

// saveAll downloads a complete checkpoint.
func (r *Remote) saveAll(ctx context.Context, path, scratch, dir string) error {
	if err := r.client.Download(ctx, path, scratch); err != nil {
		return err
	}
	if _, err := manifest.Verify(scratch, manifest.Checkpoint); err != nil {
		return fmt.Errorf("the downloaded checkpoint: %w: %w", ErrUnavailable, err)
	}
	r.client.forget(ctx, path) // the run has it now
	return replaceDir(scratch, dir)
}

// saveAdapter downloads the adapter, and has the companion write the checkpoint.
func (r *Remote) saveAdapter(ctx context.Context, version int, name, path, scratch string) error {
	export, err := r.client.SaveForSampler(ctx, name)
	if err != nil {
		return err
	}
	if err := r.client.Download(ctx, export.Path, scratch); err != nil {
		return err
	}
	body := map[string]any{"source": scratch, "name": fmt.Sprintf("%06d", version), "rank": r.Client.Rank,
		"alpha": r.Client.Alpha, "remote": keptAt{URL: r.client.http.URL(), Path: path}}
	if err := r.callCompanion(ctx, "import_adapter", body, new(pathOutput)); err != nil {
		return err
	}
	r.client.forget(ctx, export.Path)
	if r.kept == nil {
		r.kept = map[int]string{}
	}
	r.kept[version] = path
	return nil
}

// forgetOld removes checkpoints at the trainer whose folders the run has removed.
func (r *Remote) forgetOld(ctx context.Context) {
	for version, path := range r.kept {
		if dir, err := r.folder(version); err == nil && !exists(dir) {
			r.client.forget(ctx, path)
			delete(r.kept, version)
		}
	}
}

// replaceDir moves a folder to another path, durably.
func replaceDir(from, to string) error {
	aside := filepath.Join(filepath.Dir(to), ".tmp-old-"+filepath.Base(to))
	err := errors.Join(os.RemoveAll(aside), os.Rename(to, aside))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := errors.Join(syncDir(from), os.Rename(from, to)); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(aside), syncDir(filepath.Dir(to)))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load restores a version from the run's folder, or from where the trainer keeps it.
func (r *Remote) load(ctx context.Context, version int) error {
	dir, err := r.folder(version)
	if err != nil {
		return err
	}
	if r.Client.Deviations.NoCheckpoints {
		return r.loadKept(ctx, version, dir)
	}
	// Always into a new model: the present one may be that of a trainer that was started again since.
	if err := r.dial(ctx); err != nil {
		return err
	}
	r.fresh = false
	path, err := r.client.upload(ctx, dir, unique(version))
	if err == nil {
		err = r.client.LoadWeights(ctx, path, true)
		r.client.forget(ctx, path)
	}
	if err != nil {
		return fmt.Errorf("restore version %d: %w", version, err)
	}
	return nil
}

// loadKept restores a version that the trainer keeps. Only a new model may load it.
func (r *Remote) loadKept(ctx context.Context, version int, dir string) error {
	at, err := readKept(dir)
	if err != nil {
		return err
	}
	if at.Path == "" {
		return r.cannotTakeOver(version, "it was trained by another trainer")
	}
	if err := r.dial(ctx); err != nil {
		return err
	}
	r.fresh = false
	err = r.client.LoadWeights(ctx, at.Path, true)
	var refused *RequestError
	switch {
	case err == nil:
		if r.kept == nil {
			r.kept = map[int]string{}
		}
		r.kept[version] = at.Path
		return nil
	case errors.As(err, &refused) && (refused.Status == http.StatusNotFound || refused.Status == http.StatusBadRequest):
		return r.cannotTakeOver(version, fmt.Sprintf("%s of the trainer at %s is unknown to it (%v)", at.Path, at.URL, err))
	}
	return fmt.Errorf("restore version %d: %w", version, err)
}

// cannotTakeOver is the error for weights that a trainer cannot take over.
func (r *Remote) cannotTakeOver(version int, why string) error {
	return fmt.Errorf("restore version %d: %s takes over no weights, and %s\n"+
		"  hint: continue where version %d was trained: without trainer.url, or with the address of that trainer; or "+
		"begin a new run here (run.name)", version, r.Client.Deviations.name(), why, version)
}

// readKept reads from a checkpoint's manifest where the trainer keeps it.
func readKept(dir string) (keptAt, error) {
	text, err := os.ReadFile(filepath.Join(dir, manifest.Checkpoint))
	if err != nil {
		return keptAt{}, err
	}
	var about struct {
		Remote keptAt `json:"remote"`
	}
	err = json.Unmarshal(text, &about)
	return about.Remote, err
}
